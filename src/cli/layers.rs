//! Flag over environment over file over default. clap settles the first two; what the TOML file says
//! about options that neither of them gave is added to the command line as flags, so that one parser
//! reads every value and gives every error. The mount(8) form is rewritten into flags likewise.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::args::CommandLine;
use super::failure::Failure;
use crate::private;

/// Options that the command line knows but this version cannot do yet: refused, never ignored.
const NOT_YET: &[&str] = &["metrics_listen"];

/// Said once instead of beside each option.
const EVERYWHERE: &str = "Every option can also be set in the environment (--part-size is RATCHETFS_PART_SIZE) \
    or in a TOML file (part-size = \"16MiB\"): a flag wins over the environment, the environment over \
    the file. Credentials come from where AWS tools look for them.";

/// What `-o` may hold that is meant for mount(8) and systemd, not for us.
const OF_MOUNT: &[&str] = &[
    "rw",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "async",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
];

/// Where options are looked for, the stronger first: the nearer file's word is taken.
fn usual_files() -> Vec<PathBuf> {
    let config_home = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")));
    let own = config_home.map(|dir| dir.join("ratchetfs.toml"));
    own.into_iter().chain(["/etc/ratchetfs.toml".into()]).collect()
}

/// Reads the whole command line, environment and files included.
pub fn read(argv: Vec<OsString>) -> Result<CommandLine, Failure> {
    let mut argv = from_mount_form(argv)?;
    let command = without_not_yet(CommandLine::command());
    let given = command.clone().try_get_matches_from(&argv).map_err(Failure::from_clap)?;
    let (depth, leaf) = leaf_of(&given);
    let files = match leaf.try_get_one::<PathBuf>("config") {
        Ok(Some(named)) => vec![(named.clone(), true)],
        _ => usual_files().into_iter().map(|path| (path, false)).collect(),
    };
    let mut said: Vec<String> = Vec::new();
    let mut sources: Vec<String> = Vec::new();
    for (path, must_exist) in files {
        let entries = match file_entries(&command, &path, must_exist) {
            // A command that takes nothing from the file does its work all the same.
            Err(wrong) if !takes_any(&command, &given) => {
                super::output::complain(&format!("{wrong} (passed over)"));
                continue;
            }
            entries => entries?,
        };
        for (id, value) in entries {
            let is_known = takes(&command, &given, &id);
            let flag = format!("--{}", id.replace('_', "-"));
            let is_said = said.iter().any(|other| other.starts_with(&format!("{flag}=")));
            if is_known && leaf.value_source(&id).is_none() && !is_said {
                said.push(format!("{flag}={value}"));
                sources.push(path.display().to_string());
            }
        }
    }
    let place = (1 + depth).min(argv.len());
    argv.splice(place..place, said.iter().map(OsString::from));
    let matches = command.try_get_matches_from(&argv).map_err(|e| {
        sources.dedup();
        Failure::from_clap(e).add(&format!(" (options also come from {})", sources.join(", ")))
    })?;
    refuse_not_yet(leaf_of(&matches).1)?;
    CommandLine::from_arg_matches(&matches).map_err(Failure::from_clap)
}

/// The innermost subcommand and how deep it lies.
fn leaf_of(matches: &ArgMatches) -> (usize, &ArgMatches) {
    let mut leaf = (0, matches);
    while let Some((_, below)) = leaf.1.subcommand() {
        leaf = (leaf.0 + 1, below);
    }
    leaf
}

/// Whether the innermost subcommand has an argument of this id. (The matches do not tell: without debug assertions
/// clap says of any id that it is known.)
fn takes(command: &clap::Command, matches: &ArgMatches, id: &str) -> bool {
    match matches.subcommand() {
        Some((name, below)) => {
            command.find_subcommand(name).is_some_and(|command| takes(command, below, id))
        }
        None => command.get_arguments().any(|argument| argument.get_id() == id),
    }
}

/// Whether it has an argument that can come from a file: an option of `mount`.
fn takes_any(command: &clap::Command, matches: &ArgMatches) -> bool {
    let mount = command.find_subcommand("mount").into_iter();
    let options =
        mount.flat_map(|mount| mount.get_arguments()).filter(|it| it.get_long().is_some());
    let mut ids = options.map(|option| option.get_id().as_str()).filter(|id| *id != "help");
    ids.any(|id| takes(command, matches, id))
}

fn without_not_yet(command: clap::Command) -> clap::Command {
    command.mut_subcommand("mount", |mount| {
        let mount = NOT_YET.iter().fold(mount, |mount, id| mount.mut_arg(id, |arg| arg.hide(true)));
        mount.mut_args(|arg| arg.hide_env(true)).after_help(EVERYWHERE)
    })
}

fn refuse_not_yet(leaf: &ArgMatches) -> Result<(), Failure> {
    for id in NOT_YET {
        if matches!(leaf.try_contains_id(id), Ok(true)) {
            let flag = id.replace('_', "-");
            return Err(Failure::usage(format!(
                "--{flag} is not available in this version; leave it out"
            )));
        }
    }
    Ok(())
}

/// The options that a TOML file sets, by their ids. No file: none.
fn file_entries(
    command: &clap::Command,
    path: &Path,
    must_exist: bool,
) -> Result<Vec<(String, String)>, Failure> {
    let text = match read_own(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(Vec::new()),
        Err(e) => {
            return Err(Failure::usage(format!("{}: {e}; name a readable file", path.display())));
        }
    };
    let wrong = |what: String| Failure::usage(format!("{}: {what}", path.display()));
    let table: toml::Table = toml::from_str(&text).map_err(|e| {
        // The whole error draws the line in question, and with it whatever stands there.
        wrong(format!("not TOML ({})", e.message()))
    })?;
    let mount = command.find_subcommand("mount");
    let is_option = |id: &str| {
        let args = mount.into_iter().flat_map(|mount| mount.get_arguments());
        let mut ids = args.filter(|arg| arg.get_long().is_some()).map(|arg| arg.get_id().as_str());
        id != "config" && ids.any(|known| known == id)
    };
    table
        .into_iter()
        .map(|(name, value)| {
            let id = name.replace('-', "_");
            if !is_option(&id) {
                return Err(wrong(format!(
                    "there is no option {name:?}; see ratchetfs mount --help"
                )));
            }
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(on) => on.to_string(),
                _ => {
                    return Err(wrong(format!(
                        "{name} takes a string, a whole number or true/false"
                    )));
                }
            };
            Ok((id, value))
        })
        .collect()
}

/// A file that this user or root has written: it says where data goes and which files are written.
fn read_own(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    let owner = metadata.uid();
    if metadata.is_file() && owner != 0 && owner != private::uid() {
        let told = format!("it belongs to user {owner}, who may not say what this user does");
        return Err(std::io::Error::other(told));
    }
    // A group may be the user's own.
    if metadata.is_file() && metadata.mode() & 0o002 != 0 {
        let told = format!("anybody may write to it; run: chmod o-w {}", path.display());
        return Err(std::io::Error::other(told));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// `ratchetfs s3://BUCKET DIR -o opt,opt` as the `mount` command; anything else as it is.
fn from_mount_form(argv: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let text = |arg: &OsString| arg.to_string_lossy().into_owned();
    if !argv.get(1).is_some_and(|first| text(first).starts_with("s3://")) {
        return Ok(argv);
    }
    let mut flags: Vec<OsString> = vec!["ratchetfs".into(), "mount".into()];
    let mut rest = argv.into_iter().skip(1);
    while let Some(arg) = rest.next() {
        let options = match text(&arg) {
            // What mount(8) hands on to a helper: no mtab, sloppy, verbose. None of it means a thing here.
            flag if ["-n", "-s", "-v"].contains(&flag.as_str()) => continue,
            flag if flag == "-t" => {
                rest.next();
                continue;
            }
            flag if flag == "-o" => rest.next().map(|options| text(&options)).ok_or_else(|| {
                Failure::usage("-o needs options behind it, such as -o ro,allow_other".to_owned())
            })?,
            joined if joined.starts_with("-o") => joined[2..].to_owned(),
            _ => {
                flags.push(arg);
                continue;
            }
        };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            flags.extend(flag_of(option).map(OsString::from));
        }
    }
    Ok(flags)
}

/// One option of `-o` as a flag.
fn flag_of(option: &str) -> Option<String> {
    let name = option.split('=').next().unwrap_or(option);
    if OF_MOUNT.contains(&option) || option.starts_with("x-") || name == "comment" {
        return None;
    }
    if option == "ro" {
        return Some("--read-only".to_owned());
    }
    let (name, value) = option.split_at(name.len());
    Some(format!("--{}{value}", name.replace('_', "-")))
}

impl Failure {
    /// Help and version as they are; an error as one line.
    fn from_clap(error: clap::Error) -> Failure {
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Failure::Shown(error.to_string()),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Failure::usage("no command; see ratchetfs --help".to_owned())
            }
            _ => {
                let text = error.to_string();
                let told = text.split("Usage:").next().unwrap_or(&text);
                let told = told.split("For more information, try").next().unwrap_or(told);
                let told = told.strip_prefix("error: ").unwrap_or(told);
                let words: Vec<&str> = told.split_whitespace().collect();
                let told = words.join(" ").replace(" tip: ", "; ");
                Failure::usage(format!("{told}; see ratchetfs --help"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Command;

    fn mount_args(line: &str) -> Result<Box<super::super::args::MountArgs>, Failure> {
        match read(line.split(' ').map(OsString::from).collect())?.command {
            Command::Mount(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = file("part-size = \"16MiB\"\nconcurrency = 4\nread_only = true\n");
        let line =
            format!("r mount s3://bucket /m --part-size 32MiB --config {}", file.path().display());
        let options = mount_args(&line).unwrap().options;
        assert_eq!(options.transfer.part_size, Some(32 << 20));
        assert_eq!(options.transfer.concurrency, Some(4));
        assert_eq!(options.files.read_only, Some(true));
        let options = mount_args(&format!("{line} --read-only=false")).unwrap().options;
        assert_eq!(options.files.read_only, Some(false));
    }

    #[test]
    fn a_command_takes_from_the_file_what_it_knows() {
        let command = without_not_yet(CommandLine::command());
        for (line, part_size, cache_dir) in [
            ("r mount s3://bucket /m", true, true),
            ("r umount /m", false, false),
            ("r status", false, false),
            ("r uploads list", false, true),
            ("r cache clear /m", false, true),
        ] {
            let given = command.clone().try_get_matches_from(line.split(' ')).unwrap();
            let taken = |id| takes(&command, &given, id);
            assert_eq!((taken("part_size"), taken("cache_dir")), (part_size, cache_dir), "{line}");
            assert_eq!(takes_any(&command, &given), cache_dir, "{line}");
        }
    }

    #[test]
    fn a_wrong_configuration_file_is_refused_in_one_line() {
        for (text, told) in [
            ("part-sice = 1", "there is no option \"part-sice\""),
            ("aws_secret_access_key = \"x\"", "there is no option"),
            ("part-size = \"8Q\"", "--part-size"),
            ("part-size = [1]", "takes a string"),
            ("part-size 8", "not TOML"),
        ] {
            let file = file(text);
            let line = format!("r mount s3://bucket /m --config {}", file.path().display());
            let message = mount_args(&line).unwrap_err().to_string();
            assert!(message.contains(told) && !message.contains('\n'), "{text}: {message}");
            assert!(message.contains(&*file.path().to_string_lossy()), "{message}");
        }
    }

    #[test]
    fn the_form_of_mount_8_means_the_same_options() {
        let args = mount_args(
            "r s3://bucket/p /m -o ro,nosuid,_netdev,x-systemd.automount,part_size=16M,allow_other",
        );
        let args = args.unwrap();
        assert_eq!(args.options.files.read_only, Some(true));
        assert_eq!(args.options.files.allow_other, Some(true));
        assert_eq!(args.options.transfer.part_size, Some(16 << 20));
        assert!(mount_args("r s3://bucket /m -o nonsense").is_err());
        assert!(mount_args("r s3://bucket /m -o").is_err());
        let args = mount_args("r s3://bucket /m -n -s -v -t fuse.ratchetfs -o rw,part_size=16M");
        assert_eq!(args.unwrap().options.transfer.part_size, Some(16 << 20));
        let told = mount_args("r s3://bucket /m -o part_size=1Q").unwrap_err().to_string();
        assert!(!told.contains("try '--help'"), "{told}");
    }

    #[test]
    fn what_does_not_exist_yet_is_refused() {
        for id in NOT_YET {
            let flag = id.replace('_', "-");
            let message =
                mount_args(&format!("r mount s3://bucket /m --{flag}=127.0.0.1:1")).unwrap_err();
            assert!(message.to_string().contains("not available in this version"), "{message}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        without_not_yet(CommandLine::command()).debug_assert();
    }
}
