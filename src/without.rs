//! Heuristics that can be switched off, to measure what they buy: `RATCHETFS_WITHOUT=hedging,readback ratchetfs mount …`.
//! docs/decisions/ has a page for each. Nothing but speed and cost changes by them.

use std::sync::LazyLock;

/// What can be switched off, by its name in the variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heuristic {
    /// A second request for what is not answered soon.
    Hedging,
    /// Bringing a complete cache file into the page cache when nothing else is to be done.
    Readback,
    /// Believing a cache file whose stamp has not changed.
    Stamps,
    /// Writing large objects to the cache past the page cache.
    DirectWrites,
    /// The page cache for programs that read in small pieces.
    SmallReaders,
    /// Trying longer windows and more GETs.
    WindowTrials,
    /// HEADs and pages ahead of a program that walks through directories.
    Prefetch,
    /// A page of the listing instead of many questions for single names.
    PageForMisses,
    /// Asking less of a store that throttles.
    HoldBack,
}

impl Heuristic {
    pub const ALL: [Heuristic; 9] = [
        Heuristic::Hedging,
        Heuristic::Readback,
        Heuristic::Stamps,
        Heuristic::DirectWrites,
        Heuristic::SmallReaders,
        Heuristic::WindowTrials,
        Heuristic::Prefetch,
        Heuristic::PageForMisses,
        Heuristic::HoldBack,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Heuristic::Hedging => "hedging",
            Heuristic::Readback => "readback",
            Heuristic::Stamps => "stamps",
            Heuristic::DirectWrites => "direct-writes",
            Heuristic::SmallReaders => "small-readers",
            Heuristic::WindowTrials => "window-trials",
            Heuristic::Prefetch => "prefetch",
            Heuristic::PageForMisses => "page-for-misses",
            Heuristic::HoldBack => "hold-back",
        }
    }

    /// Whether it is at work. Read from the environment once a process.
    pub fn is_on(self) -> bool {
        !OFF.iter().any(|off| off == self.name())
    }
}

static OFF: LazyLock<Vec<String>> = LazyLock::new(|| {
    let text = std::env::var("RATCHETFS_WITHOUT").unwrap_or_default();
    text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
});

/// Looks for names in `RATCHETFS_WITHOUT` that are none.
///
/// # Errors
/// The line that says so.
pub fn check() -> Result<(), String> {
    let names = Heuristic::ALL.map(Heuristic::name);
    match OFF.iter().find(|off| !names.contains(&off.as_str())) {
        Some(off) => Err(format!("RATCHETFS_WITHOUT: {off:?} is none of {}", names.join(", "))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_heuristic_has_its_page() {
        for heuristic in Heuristic::ALL {
            let page = format!("docs/decisions/{}.md", heuristic.name());
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(&page);
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let switch = format!("RATCHETFS_WITHOUT={}", heuristic.name());
            assert!(text.contains(&switch), "{page} does not say how to switch it off");
            for heading in ["**Problem.**", "**Tried.**", "**Figure.**"] {
                assert!(text.contains(heading), "{page} lacks {heading}");
            }
        }
    }
}
