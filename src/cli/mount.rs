//! `ratchetfs mount`: settings, checks, then the mount itself, in the foreground or behind.

use std::future::pending;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::args::MountArgs;
use super::background::{self, Report, Side};
use super::failure::Failure;
use super::output::{complain, one_line};
use super::{checks, logging, resolve};
use crate::lock::{Mutex, rank};
use crate::mount::{Outcome, Starter};
use crate::settings::MountSettings;

pub fn run(args: MountArgs) -> Result<(), Failure> {
    let mut settings = resolve::mount_settings(args)?;
    checks::before_mount(&mut settings)?;
    let open = |path: &std::path::Path| {
        // The cache directory may have turned out to be elsewhere, behind a link.
        let is_own = path.parent().and_then(|dir| dir.canonicalize().ok()).as_deref()
            == Some(settings.cache.dir.as_path());
        if is_own { logging::open_own(path) } else { logging::open(path) }
    };
    let log = settings.run.log_file.as_deref().map(open).transpose()?;
    match log {
        Some(log) if !settings.run.foreground => match background::fork(&log)? {
            Side::Foreground(outcome) => {
                let note = outcome.map_err(Failure::Failed)?;
                note.iter().for_each(|note| complain(note));
                Ok(())
            }
            Side::Background(report) => {
                logging::start(settings.run.log_level, Some(log));
                serve(settings, Voice::Pipe(report))
            }
        },
        log => {
            logging::start(settings.run.log_level, log);
            serve(settings, Voice::Stderr)
        }
    }
}

/// Where it is said whether the mount came to be.
enum Voice {
    Pipe(Report),
    Stderr,
}

impl Voice {
    fn say(self, outcome: &Outcome) {
        match (self, outcome) {
            (Voice::Pipe(report), outcome) => report.send(outcome),
            (Voice::Stderr, Err(line) | Ok(Some(line))) => complain(line),
            (Voice::Stderr, Ok(None)) => {}
        }
    }
}

/// The command, which hears of the outcome once.
struct Command(Mutex<Option<Voice>, rank::Voice>);

impl Starter for Command {
    fn meanwhile(&self, line: &str) {
        let line = one_line(line);
        match &*self.0.lock() {
            Some(Voice::Pipe(report)) => {
                log::warn!("{line}");
                report.tell(&line);
            }
            Some(Voice::Stderr) => complain(&line),
            None => {}
        }
    }

    fn gone(&self) -> BoxFuture<'static, ()> {
        let pipe = match &*self.0.lock() {
            Some(Voice::Pipe(report)) => report.watched(),
            // It is this process.
            Some(Voice::Stderr) | None => return pending().boxed(),
        };
        async {
            let left = async { background::until_left(pipe?).await };
            if let Err(error) = left.await {
                log::warn!("whether the command still waits is not seen: {error}");
                pending::<()>().await;
            }
        }
        .boxed()
    }

    fn ready(&self, outcome: Outcome) {
        if let Some(voice) = self.0.lock().take() {
            voice.say(
                &outcome.map_err(|line| one_line(&line)).map(|note| note.map(|it| one_line(&it))),
            );
        }
    }
}

/// Blocks until the bucket is unmounted. Whatever goes wrong is said exactly once: through the voice
/// before the mount answers, in the log behind that.
fn serve(settings: MountSettings, voice: Voice) -> Result<(), Failure> {
    let command = Arc::new(Command(Mutex::new(Some(voice))));
    let Err(error) = crate::mount::run(settings, command.clone()) else { return Ok(()) };
    let line = one_line(&format!("{error:#}"));
    let unspoken = command.0.lock().take();
    // Standard error has heard it already where it is the voice; a log file has not.
    if !matches!(unspoken, Some(Voice::Stderr)) {
        log::error!("{line}");
    }
    if let Some(voice) = unspoken {
        voice.say(&Err(line));
    }
    Err(Failure::Told)
}
