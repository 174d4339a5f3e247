//! The AWS configuration files, as far as more is asked of them than the signing library does: which profile there
//! is and what it sets up.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use reqsign_core::Context;

/// The settings of a profile, by their names.
type Values = BTreeMap<String, String>;

/// A profile, of both files together.
#[derive(Debug, Default)]
pub struct Profile {
    pub name: String,
    pub exists: bool,
    values: Values,
    /// Files that the environment names and that cannot be read: a line each.
    pub unreadable: Vec<String>,
}

impl Profile {
    #[allow(clippy::disallowed_methods, reason = "the machine's configuration")]
    pub async fn read(name: &str, context: &Context) -> Profile {
        let mut profile = Profile { name: name.to_owned(), ..Profile::default() };
        for (variable, usual) in [
            ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
            ("AWS_CONFIG_FILE", "~/.aws/config"),
        ] {
            let named = context.env_var(variable);
            let path = expanded(named.as_deref().unwrap_or(usual));
            match tokio::fs::read(&path).await {
                Ok(bytes) => profile.add(&String::from_utf8_lossy(&bytes)),
                Err(error) if named.is_some() => {
                    profile.unreadable.push(format!("{variable}, {}: {error}", path.display()));
                }
                // Without a home, or in another user's, there is none.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    log::debug!("{}: {error}", path.display());
                }
                Err(_) => {}
            }
        }
        profile
    }

    fn add(&mut self, text: &str) {
        if let Some(values) = values_of(text, &self.name) {
            self.exists = true;
            self.values.extend(values);
        }
    }

    pub fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.values.contains_key(*name))
    }
}

/// The path of the configuration file.
pub fn config_path() -> PathBuf {
    let named = std::env::var("AWS_CONFIG_FILE").ok().filter(|path| !path.is_empty());
    expanded(named.as_deref().unwrap_or("~/.aws/config"))
}

/// A path in which `~/` is the user's home.
pub fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(below), Some(home)) => home.join(below),
        _ => PathBuf::from(path),
    }
}

/// What a file says of a profile: `[name]` or `[profile name]`, without nested settings. `None` where it says nothing.
pub(super) fn values_of(text: &str, profile: &str) -> Option<Values> {
    let mut inside = false;
    let mut found: Option<Values> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(section) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let section = section.trim();
            let name = section.strip_prefix("profile ").map(str::trim).unwrap_or(section);
            inside = name == profile;
            if inside {
                found.get_or_insert_default();
            }
        } else if inside
            // Indented lines belong to a nested setting.
            && !line.starts_with([' ', '\t'])
            && !trimmed.starts_with(['#', ';'])
            && let Some((name, value)) = trimmed.split_once('=')
            && !value.trim().is_empty()
        {
            let values = found.get_or_insert_default();
            values.insert(name.trim().to_owned(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_what_its_sections_say() {
        let text = "[default]\nregion = eu-west-1\n# c = d\n[profile two]\ns3 =\n  region = no\n\
                    region=ap-south-1\n[profile three]\n[two]\noutput = json\n";
        let values = values_of(text, "two").unwrap();
        assert_eq!(values.keys().collect::<Vec<_>>(), ["output", "region"]);
        assert_eq!(values["region"], "ap-south-1");
        assert_eq!(values_of(text, "default").unwrap().len(), 1);
        assert!(values_of(text, "three").unwrap().is_empty());
        assert_eq!(values_of(text, "four"), None);
    }

    #[test]
    fn a_home_is_put_in_the_place_of_a_tilde_and_of_nothing_else() {
        let home = std::env::home_dir().unwrap();
        assert_eq!(expanded("~/x"), home.join("x"));
        for path in ["~x", "x/~/y", "/a"] {
            assert_eq!(expanded(path), PathBuf::from(path));
        }
    }
}
