//! The AWS configuration files: what they say of a profile, and how the library is to read them.
//!
//! They are read anew each time that credentials are asked for: other programs put fresh ones there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The settings of a section, by their names; those of a nested group as `group.name`.
type Values = BTreeMap<String, String>;

/// A file that may hold profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its profiles are `[default]` and `[profile NAME]`.
    Config,
    /// Its profiles are `[NAME]`.
    Credentials,
}

/// Both files, and a profile in them.
#[derive(Debug, Default)]
pub struct Profile {
    pub name: String,
    /// It was named, by a flag or by the environment.
    pub is_named: bool,
    pub exists: bool,
    values: Values,
    /// Files that the environment names and that cannot be read: a line each.
    pub unreadable: Vec<String>,
    config: String,
    credentials: String,
}

impl Profile {
    /// Reads the files. `named` is the profile that a flag names; else it is `AWS_PROFILE`'s, else `default`.
    #[allow(clippy::disallowed_methods, reason = "the machine's configuration")]
    pub fn read(named: Option<&str>) -> Profile {
        let named = named.map(str::to_owned).or_else(|| variable("AWS_PROFILE"));
        let mut profile = Profile {
            is_named: named.is_some(),
            name: named.unwrap_or_else(|| "default".to_owned()),
            ..Profile::default()
        };
        for (kind, variable_name, usual) in [
            (Kind::Credentials, "AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
            (Kind::Config, "AWS_CONFIG_FILE", "~/.aws/config"),
        ] {
            let named = variable(variable_name);
            let path = expanded(named.as_deref().unwrap_or(usual));
            match std::fs::read(&path) {
                Ok(bytes) => profile.add(kind, String::from_utf8_lossy(&bytes).into_owned()),
                Err(error) if named.is_some() => {
                    profile
                        .unreadable
                        .push(format!("{variable_name}, {}: {error}", path.display()));
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

    /// Where both files have a setting, that of the credentials file counts, as for AWS tools.
    fn add(&mut self, kind: Kind, text: String) {
        if let Some(values) = section_of(&text, |section| names(kind, section, &self.name)) {
            self.exists = true;
            for (name, value) in values {
                self.values.entry(name).or_insert(value);
            }
        }
        match kind {
            Kind::Config => self.config = text,
            Kind::Credentials => self.credentials = text,
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.values.contains_key(*name))
    }

    /// The endpoint that the profile names, for S3 or for all services.
    pub fn endpoint_url(&self) -> Option<String> {
        if self.get("ignore_configured_endpoint_urls").is_some_and(is_true) {
            return None;
        }
        let services = self.get("services").map(|name| format!("services {name}"));
        let services = services.and_then(|name| section_of(&self.config, |it| it == name));
        let of_s3 = services.and_then(|mut it| it.remove("s3.endpoint_url"));
        of_s3.or_else(|| self.get("endpoint_url").map(str::to_owned))
    }

    /// A file as the library is to read it: programs and files that it names mean where this program was started,
    /// `dir`, which it has left since.
    pub fn placed(&self, kind: Kind, dir: &Path) -> String {
        let text = match kind {
            Kind::Config => &self.config,
            Kind::Credentials => &self.credentials,
        };
        let Some(dir) = dir.to_str().filter(|dir| !dir.is_empty() && !dir.contains(['\n', '\r']))
        else {
            return text.clone();
        };
        text.lines().map(|line| placed_line(line, dir) + "\n").collect()
    }
}

/// The S3 endpoint that the environment or the profile names, and where. `profile` is one that a flag names.
pub fn configured_endpoint(profile: Option<&str>) -> Option<(String, &'static str)> {
    if variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").as_deref().is_some_and(is_true) {
        return None;
    }
    for name in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] {
        if let Some(url) = variable(name) {
            return Some((url, name));
        }
    }
    Profile::read(profile).endpoint_url().map(|url| (url, "endpoint_url of the AWS profile"))
}

fn placed_line(line: &str, dir: &str) -> String {
    let setting = line.split_once('=').filter(|_| !line.starts_with([' ', '\t', '#', ';', '[']));
    let Some((name, value)) = setting.map(|(name, value)| (name.trim(), without_comment(value)))
    else {
        return line.to_owned();
    };
    match name.to_ascii_lowercase().as_str() {
        // The library gives it to a shell. A directory that has gone leaves the commands that need none.
        "credential_process" if !value.is_empty() => {
            format!("{name} = cd {}; {value}", quoted(dir))
        }
        "web_identity_token_file" if !value.is_empty() => {
            format!("{name} = {}", Path::new(dir).join(expanded(value)).display())
        }
        _ => line.to_owned(),
    }
}

/// One word of a shell, in which nothing looks like a comment of a configuration file.
fn quoted(word: &str) -> String {
    let mut quoted = "'".to_owned();
    for c in word.chars() {
        match c {
            '\'' | '#' | ';' => quoted.extend(["'\\", c.encode_utf8(&mut [0; 4]), "'"]),
            _ => quoted.push(c),
        }
    }
    quoted + "'"
}

/// A variable of the environment; an empty one is none, as for AWS tools.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true")
}

/// A path in which `~/` is the user's home.
pub fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(below), Some(home)) => home.join(below),
        _ => PathBuf::from(path),
    }
}

/// Whether a section is that of a profile.
fn names(kind: Kind, section: &str, profile: &str) -> bool {
    match kind {
        Kind::Credentials => section == profile,
        Kind::Config => {
            let named = section.strip_prefix("profile").filter(|it| it.starts_with([' ', '\t']));
            named.map(str::trim) == Some(profile) || section == "default" && profile == "default"
        }
    }
}

/// What a file says in the sections that are meant. `None` where it has none of them.
fn section_of(text: &str, is_meant: impl Fn(&str) -> bool) -> Option<Values> {
    let mut inside = false;
    let mut group: Option<String> = None;
    let mut found: Option<Values> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if line.starts_with('[') {
            let section = trimmed.trim_start_matches('[').split(']').next().unwrap_or_default();
            (inside, group) = (is_meant(section.trim()), None);
            if inside {
                found.get_or_insert_default();
            }
            continue;
        }
        let setting =
            trimmed.split_once('=').filter(|_| inside && !trimmed.starts_with(['#', ';']));
        let Some((name, value)) = setting else { continue };
        let (name, value) = (name.trim().to_ascii_lowercase(), without_comment(value));
        let is_nested = line.starts_with([' ', '\t']);
        let name = match (&group, is_nested) {
            (Some(group), true) => format!("{group}.{name}"),
            // Indented below a setting that has a value: the rest of that.
            (None, true) => continue,
            (_, false) => {
                group = value.is_empty().then(|| name.clone());
                name
            }
        };
        if !value.is_empty() {
            found.get_or_insert_default().insert(name, value.to_owned());
        }
    }
    found
}

/// A value as it is meant: a comment begins behind a space.
fn without_comment(value: &str) -> &str {
    let begins =
        |(at, c): (usize, char)| matches!(c, '#' | ';') && value[..at].ends_with([' ', '\t']);
    let end = value.char_indices().find(|it| begins(*it)).map_or(value.len(), |(at, _)| at);
    value[..end].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str, config: &str, credentials: &str) -> Profile {
        let mut profile = Profile { name: name.to_owned(), ..Profile::default() };
        profile.add(Kind::Credentials, credentials.to_owned());
        profile.add(Kind::Config, config.to_owned());
        profile
    }

    #[test]
    fn a_profile_is_what_its_sections_say() {
        let config = "[default]\nregion = eu-west-1\n# c = d\n[profile two] # b\ns3 =\n  region = no\n\
                      Region=ap-south-1 ; c\n[profile three]\n[two]\noutput = none\n";
        let two = profile("two", config, "[two]\noutput = json\n[profile two]\na = b\n");
        assert_eq!(two.get("region"), Some("ap-south-1"));
        assert_eq!(two.get("output"), Some("json"));
        assert_eq!(two.values.keys().collect::<Vec<_>>(), ["output", "region", "s3.region"]);
        assert_eq!(profile("default", config, "").values.len(), 1);
        let three = profile("three", config, "");
        assert!(three.exists && three.values.is_empty());
        assert!(!profile("four", config, "").exists);
        assert_eq!(profile("a", "[profile a]\nb = 1", "[a]\nb = 2").get("b"), Some("2"));
    }

    #[test]
    fn an_endpoint_is_that_of_s3_or_of_all_services() {
        let config = "[profile a]\nendpoint_url = http://all\nservices = x\n[services x]\ndynamodb =\n\
                      \x20 endpoint_url = http://other\ns3 = \n  endpoint_url = http://s3\n[profile b]\n\
                      services = y\nendpoint_url = http://all\n[profile c]\nendpoint_url = http://all\n\
                      ignore_configured_endpoint_urls = true\n";
        for (name, endpoint) in [("a", Some("http://s3")), ("b", Some("http://all")), ("c", None)] {
            assert_eq!(profile(name, config, "").endpoint_url().as_deref(), endpoint, "{name}");
        }
    }

    #[test]
    fn programs_and_files_mean_where_the_program_was_started() {
        let config = "[default]\ncredential_process = ./helper --x\nregion = r\n  web_identity_token_file = no\n\
                      web_identity_token_file=token ; c\n# credential_process = a\ncredential_process =\n";
        let placed = profile("default", config, "").placed(Kind::Config, Path::new("/home/a #'b"));
        let lines: Vec<&str> = placed.lines().collect();
        assert_eq!(lines[1], r"credential_process = cd '/home/a '\#''\''b'; ./helper --x");
        assert_eq!(lines[3], "  web_identity_token_file = no");
        assert_eq!(lines[4], "web_identity_token_file = /home/a #'b/token");
        assert_eq!(lines[5..], ["# credential_process = a", "credential_process ="]);
        assert_eq!(profile("default", config, "").placed(Kind::Config, Path::new("")), config);
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
