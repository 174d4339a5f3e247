//! How far a file that is being written has come: one state, and one function that changes it.
//!
//! The journal's records drive it when they are replayed, and the writer when it appends them: what a draft is after a
//! crash is what it was before, but for what was in memory alone.
//!
//! Pure: no I/O, no clock.

/// How much there is of a file of which a crash brings nothing back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// It is the object that it modifies, or empty: there is nothing to publish.
    Nothing,
    /// It has changed, in memory alone.
    InMemory,
    /// The journal knows it: what the store and the disk have of it may save a later writer the work.
    Recorded,
}

/// What a draft is. `S` is what is known of its last seal: all of it in the journal, in the writer when it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Life<S> {
    /// A crash brings nothing back.
    Open(Extent),
    /// A crash brings back what was sealed by fsync, for an application that asks for it; under write-back it is published.
    Synced(S),
    /// Its writer was told that the file is safe: a crash brings it back, and it is published.
    Closed(S),
    /// It has lost its name: nothing of it may appear in the store, and a crash brings nothing back.
    Unlinked(Extent),
    /// Given up, with all that the store and the disk had of it.
    Ended,
}

/// What happens to a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<S> {
    /// It was written to, cut, or is to be published though nothing was.
    Changed,
    /// `DraftBegun`.
    Begun,
    /// `DraftSealed`.
    Sealed { seal: S, closed: bool },
    /// `DraftUnlinked`, and what says the same by the way.
    Unlinked,
    /// It is an object now, and has changed since (`DraftRebased`).
    Rebased,
    /// It is an object now, all of it (`DraftEnded`).
    Published,
    /// It is given up (`DraftEnded`).
    Discarded,
}

impl<S> Life<S> {
    /// Takes an event in. `false`: it cannot happen to such a draft, which stays as it is.
    pub fn apply(&mut self, event: Event<S>) -> bool {
        use Extent::{InMemory, Nothing, Recorded};
        let life = std::mem::replace(self, Life::Ended);
        let (next, taken) = match (life, event) {
            (Life::Ended, _) => (Life::Ended, false),
            (_, Event::Discarded) => (Life::Ended, true),

            (Life::Open(Nothing), Event::Changed) => (Life::Open(InMemory), true),
            (Life::Unlinked(Nothing), Event::Changed) => (Life::Unlinked(InMemory), true),
            // How far the seal is behind is the writer's to know.
            (life, Event::Changed) => (life, true),

            (Life::Open(InMemory), Event::Begun) => (Life::Open(Recorded), true),
            (Life::Unlinked(InMemory), Event::Begun) => (Life::Unlinked(Recorded), true),
            (life, Event::Begun) => (life, false),

            // What was promised by a close is not taken back by an fsync.
            (Life::Closed(_), Event::Sealed { seal, .. }) => (Life::Closed(seal), true),
            (Life::Open(Recorded) | Life::Synced(_), Event::Sealed { seal, closed }) => {
                (if closed { Life::Closed(seal) } else { Life::Synced(seal) }, true)
            }
            (life, Event::Sealed { .. }) => (life, false),

            (Life::Open(extent) | Life::Unlinked(extent), Event::Unlinked) => {
                (Life::Unlinked(extent), true)
            }
            (Life::Synced(_) | Life::Closed(_), Event::Unlinked) => {
                (Life::Unlinked(Recorded), true)
            }

            (Life::Open(Nothing), Event::Rebased) => (Life::Open(Nothing), false),
            (Life::Unlinked(Nothing), Event::Rebased) => (Life::Unlinked(Nothing), false),
            (life, Event::Rebased) => (life, true),

            // It may have lost its name while it became one.
            (Life::Unlinked(_), Event::Published) => (Life::Unlinked(Nothing), true),
            (_, Event::Published) => (Life::Open(Nothing), true),
        };
        *self = next;
        taken
    }

    /// What a crash brings back.
    pub fn sealed(&self) -> Option<&S> {
        match self {
            Life::Synced(seal) | Life::Closed(seal) => Some(seal),
            Life::Open(_) | Life::Unlinked(_) | Life::Ended => None,
        }
    }

    pub fn sealed_mut(&mut self) -> Option<&mut S> {
        match self {
            Life::Synced(seal) | Life::Closed(seal) => Some(seal),
            Life::Open(_) | Life::Unlinked(_) | Life::Ended => None,
        }
    }

    /// What a crash brings back is to be published without its writer.
    pub fn is_closed(&self) -> bool {
        matches!(self, Life::Closed(_))
    }

    /// There is something to publish, if it has a name.
    pub fn is_changed(&self) -> bool {
        match self {
            Life::Open(extent) | Life::Unlinked(extent) => *extent != Extent::Nothing,
            Life::Synced(_) | Life::Closed(_) => true,
            Life::Ended => false,
        }
    }

    /// The journal knows it.
    pub fn is_recorded(&self) -> bool {
        match self {
            Life::Open(extent) | Life::Unlinked(extent) => *extent == Extent::Recorded,
            Life::Synced(_) | Life::Closed(_) => true,
            Life::Ended => false,
        }
    }

    pub fn is_unlinked(&self) -> bool {
        matches!(self, Life::Unlinked(_))
    }

    pub fn is_ended(&self) -> bool {
        matches!(self, Life::Ended)
    }

    pub fn as_ref(&self) -> Life<&S> {
        match self {
            Life::Open(extent) => Life::Open(*extent),
            Life::Synced(seal) => Life::Synced(seal),
            Life::Closed(seal) => Life::Closed(seal),
            Life::Unlinked(extent) => Life::Unlinked(*extent),
            Life::Ended => Life::Ended,
        }
    }

    /// The same with what others have to know of the seal.
    pub fn map<T>(self, seal: impl FnOnce(S) -> T) -> Life<T> {
        match self {
            Life::Open(extent) => Life::Open(extent),
            Life::Synced(sealed) => Life::Synced(seal(sealed)),
            Life::Closed(sealed) => Life::Closed(seal(sealed)),
            Life::Unlinked(extent) => Life::Unlinked(extent),
            Life::Ended => Life::Ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event<u8>; 8] = [
        Event::Changed,
        Event::Begun,
        Event::Sealed { seal: 2, closed: false },
        Event::Sealed { seal: 2, closed: true },
        Event::Unlinked,
        Event::Rebased,
        Event::Published,
        Event::Discarded,
    ];

    /// What each event, in the order of `EVENTS`, makes of each state (-: refused). `again` is sealed once more.
    const TABLE: [&str; 9] = [
        // state            Changed          Begun            fsync  close  Unlinked          Rebased          Published Discarded
        "nothing           in_memory        -                -      -      unlinked          -                nothing  ended",
        "in_memory         in_memory        recorded         -      -      unlinked_memory   in_memory        nothing  ended",
        "recorded          recorded         -                synced_again closed_again unlinked_recorded recorded nothing ended",
        "synced            synced           -                synced_again closed_again unlinked_recorded synced   nothing ended",
        "closed            closed           -                closed_again closed_again unlinked_recorded closed   nothing ended",
        "unlinked           unlinked_memory   -                -      -      unlinked          -                unlinked  ended",
        "unlinked_memory    unlinked_memory   unlinked_recorded -      -      unlinked_memory   unlinked_memory   unlinked  ended",
        "unlinked_recorded  unlinked_recorded -                -      -      unlinked_recorded unlinked_recorded unlinked  ended",
        "ended             -                -                -      -      -                -                -        -",
    ];

    fn named(name: &str) -> Option<Life<u8>> {
        Some(match name {
            "nothing" => Life::Open(Extent::Nothing),
            "in_memory" => Life::Open(Extent::InMemory),
            "recorded" => Life::Open(Extent::Recorded),
            "synced" => Life::Synced(1),
            "synced_again" => Life::Synced(2),
            "closed" => Life::Closed(1),
            "closed_again" => Life::Closed(2),
            "unlinked" => Life::Unlinked(Extent::Nothing),
            "unlinked_memory" => Life::Unlinked(Extent::InMemory),
            "unlinked_recorded" => Life::Unlinked(Extent::Recorded),
            "ended" => Life::Ended,
            "-" => return None,
            other => panic!("{other}"),
        })
    }

    fn rows() -> impl Iterator<Item = (Life<u8>, Vec<Option<Life<u8>>>)> {
        TABLE.iter().map(|row| {
            let mut names = row.split_whitespace().map(named);
            (names.next().flatten().unwrap(), names.collect())
        })
    }

    #[test]
    fn every_state_knows_every_event() {
        for (life, row) in rows() {
            assert_eq!(row.len(), EVENTS.len(), "{life:?}");
            for (event, expected) in EVENTS.into_iter().zip(row) {
                let mut after = life;
                let taken = after.apply(event);
                assert_eq!(taken.then_some(after), expected, "{life:?}, {event:?}");
                assert!(taken || after == life, "{life:?}, {event:?}: refused, and changed");
            }
        }
    }

    /// What a crash brings back is recorded, has a name, and waits to be published.
    #[test]
    fn what_is_promised_is_recorded_and_not_clean() {
        for (life, _) in rows() {
            let has_no_name = life.is_unlinked() || life.is_ended();
            assert!(life.sealed().is_none() || (life.is_recorded() && !has_no_name), "{life:?}");
            assert!(!life.is_recorded() || life.is_changed(), "{life:?}");
            assert!(!life.is_closed() || life.sealed().is_some(), "{life:?}");
        }
    }
}
