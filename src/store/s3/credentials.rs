//! Where credentials come from: the sources of the signing library, asked in order, and what stands around them
//! (environment, files, helper programs, metadata services).
//!
//! A source that was set up and fails is an error, and no other one is asked in its place: it would be another
//! identity, such as the machine's role, with other rights to other data. For the same reason the source that was
//! found stays the one that is asked when credentials expire.
//!
//! The library's errors quote what helper programs print and what services answer. None of it is shown: what went
//! wrong is said in words of our own, from what can be told without secrets (exit status, HTTP status, names of
//! files).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use reqsign_aws_v4::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider,
    EnvCredentialProvider, IMDSv2CredentialProvider, ProcessCredentialProvider,
    ProfileCredentialProvider, SSOCredentialProvider, StaticCredentialProvider,
};
use reqsign_core::{
    CommandExecute, CommandOutput, Context, Env, Error, FileRead, HttpSend, OsEnv,
    ProvideCredential, ProvideCredentialDyn, Result,
};
use reqsign_http_send_reqwest::ReqwestHttpSend;

use super::profile::{self, Profile};
use super::settings::S3Settings;
use crate::lock::{Mutex, rank};

/// The context that the library works in; `notes` hears what fails there.
pub fn context(settings: &S3Settings, client: reqwest::Client, notes: &Notes) -> Context {
    Context::new()
        .with_file_read(Files { notes: notes.clone() })
        .with_http_send(Http { library: ReqwestHttpSend::new(client), notes: notes.clone() })
        .with_command_execute(Helpers { dir: settings.start_dir.clone(), notes: notes.clone() })
        .with_env(Environment)
}

/// What went wrong last, without secrets.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<Option<String>, rank::CredentialNotes>>);

impl Notes {
    fn write(&self, line: String) {
        *self.0.lock() = Some(line);
    }

    pub fn take(&self) -> Option<String> {
        self.0.lock().take()
    }
}

/// What is told of settings that only AWS's own tools can follow.
const OTHERWISE: &str = "not supported; let a credential_process do it: \
                         aws configure export-credentials --format process";

type Provider = Box<dyn ProvideCredentialDyn<Credential = Credential>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Given,
    Environment,
    Profile,
    Sso,
    WebIdentity,
    Process,
    Container,
    Machine,
}

/// The sources, in the order in which they are asked.
#[derive(Debug)]
pub struct Chain {
    sources: Vec<(Kind, Provider)>,
    /// The profile that was named outright.
    profile: Option<String>,
    /// The source that has given credentials.
    found: OnceLock<usize>,
    notes: Notes,
}

impl Chain {
    pub fn new(settings: &S3Settings, notes: Notes) -> Chain {
        let profile = settings.profile.clone();
        let sources = match (&settings.credentials, &profile) {
            (Some(given), _) => {
                let mut fixed = StaticCredentialProvider::new(&given.access_key, &given.secret_key);
                if let Some(token) = &given.session_token {
                    fixed = fixed.with_session_token(token);
                }
                vec![(Kind::Given, Box::new(fixed) as Provider)]
            }
            // A profile named outright is meant: another source must not answer in its place.
            (None, Some(name)) => of_profile(Some(name)),
            (None, None) => everywhere(),
        };
        Chain { sources, profile, found: OnceLock::new(), notes }
    }

    /// What this source says, as what it means.
    async fn ask(
        &self,
        (kind, provider): &(Kind, Provider),
        context: &Context,
        surroundings: &Surroundings,
    ) -> Result<Option<Credential>> {
        surroundings.check(*kind).map_err(Error::credential_invalid)?;
        self.notes.take();
        match provider.provide_credential_dyn(context).await {
            Ok(Some(credential)) => Ok(Some(credential)),
            Ok(None) | Err(_) if !surroundings.is_set_up(*kind) => Ok(None),
            Ok(None) => Err(Error::credential_invalid(format!(
                "{} is set up in part only",
                surroundings.name_of(*kind)
            ))),
            Err(_) => {
                let why = self.notes.take().unwrap_or_else(|| "its answer makes no sense".into());
                let name = surroundings.name_of(*kind);
                Err(Error::credential_invalid(format!("{name} fails: {why}")))
            }
        }
    }
}

impl ProvideCredential for Chain {
    type Credential = Credential;

    async fn provide_credential(&self, context: &Context) -> Result<Option<Credential>> {
        let surroundings = Surroundings::look(self.profile.as_deref(), context).await;
        for (place, source) in self.sources.iter().enumerate() {
            if self.found.get().is_some_and(|found| *found != place) {
                continue;
            }
            let asked = self.ask(source, context, &surroundings).await;
            let asked = asked.inspect_err(|error| self.notes.write(error.to_string()))?;
            if let Some(credential) = asked {
                // Many may ask at once: they have all found the same.
                let _ = self.found.set(place);
                return Ok(Some(credential));
            }
        }
        self.notes.write("none were found".to_owned());
        Ok(None)
    }
}

fn everywhere() -> Vec<(Kind, Provider)> {
    let mut sources: Vec<(Kind, Provider)> =
        vec![(Kind::Environment, Box::new(EnvCredentialProvider::new()))];
    let mut of_profile = of_profile(None);
    let process = of_profile.pop();
    sources.extend(of_profile);
    let web = AssumeRoleWithWebIdentityCredentialProvider::default();
    sources.push((Kind::WebIdentity, Box::new(web)));
    sources.extend(process);
    sources.push((Kind::Container, Box::new(ECSCredentialProvider::default())));
    sources.push((Kind::Machine, Box::new(IMDSv2CredentialProvider::default())));
    sources
}

/// Of the profile `name`, or of the one that the environment names.
fn of_profile(name: Option<&String>) -> Vec<(Kind, Provider)> {
    let (mut keys, mut sso, mut process) = (
        ProfileCredentialProvider::new(),
        SSOCredentialProvider::new(),
        ProcessCredentialProvider::new(),
    );
    if let Some(name) = name {
        keys = keys.with_profile(name);
        sso = sso.with_profile(name);
        process = process.with_profile(name);
    }
    vec![
        (Kind::Profile, Box::new(keys)),
        (Kind::Sso, Box::new(sso)),
        (Kind::Process, Box::new(process)),
    ]
}

/// What is set up on this machine.
struct Surroundings {
    environment: HashMap<String, String>,
    profile: Profile,
    /// The profile is one that was named, by a flag or the environment.
    is_named: bool,
}

impl Surroundings {
    async fn look(named: Option<&str>, context: &Context) -> Surroundings {
        let environment = context.env_vars();
        let from_environment = environment.get("AWS_PROFILE").map(String::as_str);
        let name = named.or(from_environment);
        let profile = Profile::read(name.unwrap_or("default"), context).await;
        Surroundings { profile, is_named: name.is_some(), environment }
    }

    fn has_any(&self, variables: &[&str]) -> bool {
        variables.iter().any(|name| self.environment.contains_key(*name))
    }

    fn is_set_up(&self, kind: Kind) -> bool {
        match kind {
            Kind::Given => true,
            Kind::Environment => self.has_any(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]),
            Kind::Profile => self.profile.has_any(&["aws_access_key_id", "aws_secret_access_key"]),
            Kind::Sso => self.profile.has_any(&["sso_session", "sso_account_id", "sso_start_url"]),
            Kind::WebIdentity => self.has_any(&["AWS_WEB_IDENTITY_TOKEN_FILE"]),
            Kind::Process => self.profile.has_any(&["credential_process"]),
            Kind::Container => self.has_any(&[
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            ]),
            Kind::Machine => false,
        }
    }

    /// Refuses what the library would pass over in silence.
    fn check(&self, kind: Kind) -> std::result::Result<(), String> {
        let name = &self.profile.name;
        if kind == Kind::Sso && self.profile.has_any(&["sso_session"]) {
            return Err(format!("profile {name:?} has an sso_session, which is {OTHERWISE}"));
        }
        if kind != Kind::Profile {
            return Ok(());
        }
        if let Some(file) = self.profile.unreadable.first() {
            return Err(file.clone());
        }
        if self.is_named && !self.profile.exists {
            return Err(format!("there is no profile {name:?} in the AWS configuration files"));
        }
        if self.profile.has_any(&["role_arn"]) {
            return Err(format!(
                "profile {name:?} takes on a role (role_arn), which is {OTHERWISE}"
            ));
        }
        Ok(())
    }

    fn name_of(&self, kind: Kind) -> String {
        let of_profile = |what: &str| format!("{what} of profile {:?}", self.profile.name);
        match kind {
            Kind::Given => "the key pair".to_owned(),
            Kind::Environment => "AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY".to_owned(),
            Kind::Profile => of_profile("the key pair"),
            Kind::Sso => of_profile("SSO (aws sso login)"),
            Kind::WebIdentity => "web identity (AWS_WEB_IDENTITY_TOKEN_FILE)".to_owned(),
            Kind::Process => of_profile("credential_process"),
            Kind::Container => "the container's credential service".to_owned(),
            Kind::Machine => "the machine's metadata service".to_owned(),
        }
    }
}

/// The process's environment, in which an empty AWS variable is none, as for AWS tools.
#[derive(Debug)]
struct Environment;

impl Env for Environment {
    fn var(&self, key: &str) -> Option<String> {
        OsEnv.var(key).filter(|value| !value.is_empty())
    }

    fn vars(&self) -> HashMap<String, String> {
        // Not the library's, which panics where one is not UTF-8.
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }

    fn home_dir(&self) -> Option<PathBuf> {
        OsEnv.home_dir()
    }
}

#[derive(Debug)]
struct Files {
    notes: Notes,
}

impl FileRead for Files {
    #[allow(clippy::disallowed_methods, reason = "the machine's configuration")]
    async fn file_read(&self, path: &str) -> Result<Vec<u8>> {
        tokio::fs::read(path).await.map_err(|error| {
            self.notes.write(format!("{path}: {error}"));
            Error::unexpected("a file cannot be read").with_source(error)
        })
    }
}

#[derive(Debug)]
struct Http {
    library: ReqwestHttpSend,
    notes: Notes,
}

impl HttpSend for Http {
    async fn http_send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        match self.library.http_send(request).await {
            Ok(answer) => {
                if !answer.status().is_success() {
                    self.notes.write(format!("{host} answers {}", answer.status()));
                }
                Ok(answer)
            }
            Err(_) => {
                self.notes.write(format!("{host} does not answer"));
                Err(Error::unexpected("no answer"))
            }
        }
    }
}

/// Runs credential helpers where this program was started, as AWS tools do: a helper may be named relative to that.
#[derive(Debug)]
struct Helpers {
    dir: PathBuf,
    notes: Notes,
}

impl CommandExecute for Helpers {
    #[allow(clippy::disallowed_methods, reason = "the machine's configuration")]
    async fn command_execute(&self, program: &str, args: &[&str]) -> Result<CommandOutput> {
        let mut command = tokio::process::Command::new(resolved(program, &self.dir));
        command.args(args).kill_on_drop(true);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        if self.dir.is_dir() {
            command.current_dir(&self.dir);
        }
        let output = command.output().await.map_err(|error| {
            self.notes.write(format!("{program} cannot be run: {error}"));
            Error::unexpected("a program cannot be run").with_source(error)
        })?;
        if !output.status.success() {
            self.notes.write(format!("{program} ends with {}", output.status));
        }
        let status = output.status.code().unwrap_or(-1);
        Ok(CommandOutput { status, stdout: output.stdout, stderr: Vec::new() })
    }
}

/// Where a program that is named by a path lies; one that is named by its name alone is looked for in PATH.
fn resolved(program: &str, dir: &Path) -> PathBuf {
    if program.contains('/') { dir.join(profile::expanded(program)) } else { program.into() }
}
