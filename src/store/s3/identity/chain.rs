//! Where credentials come from: the sources, in the order in which they are asked.
//!
//! A source that was set up and fails is an error, and no other one is asked in its place: it would be another
//! identity, such as the machine's role, with other rights to other data. For the same reason the source that was
//! found stays the one that is asked when credentials expire.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use async_trait::async_trait;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_smithy_async::time::TimeSource;
use aws_types::region::Region;

use super::cache::{Cache, Source};
use super::failure::{Failure, Notes, cause_of};
use super::profile::{self, Profile, variable};
use super::web::Web;
use crate::blocking;
use crate::store::StoreClock;
use crate::store::s3::provider::Provider;
use crate::store::s3::settings::{S3Settings, StaticCredentials};

/// What is told of settings that only AWS's own tools can follow.
const OTHERWISE: &str = "not supported; let a credential_process do it: \
                         aws configure export-credentials --format process";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Given,
    /// Variables of the provider's own tools.
    Own,
    Environment,
    Profile,
    WebIdentity,
    Container,
    Machine,
}

/// Of AWS's services, where nothing names another.
const DEFAULT_REGION: &str = "us-east-1";

/// The order of AWS's tools.
const EVERYWHERE: &[Kind] = &[
    Kind::Own,
    Kind::Environment,
    Kind::Profile,
    Kind::WebIdentity,
    Kind::Container,
    Kind::Machine,
];

/// Key, secret and token, as a provider's own tools name them.
type Variables = [&'static str; 3];

const OF_AWS: Variables = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
const OF_OSS: [Variables; 2] = [
    ["OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"],
    [
        "ALIBABA_CLOUD_ACCESS_KEY_ID",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
        "ALIBABA_CLOUD_SECURITY_TOKEN",
    ],
];
const OF_TOS: [Variables; 1] = [["TOS_ACCESS_KEY", "TOS_SECRET_KEY", "TOS_SECURITY_TOKEN"]];

fn own_variables(provider: Provider) -> &'static [Variables] {
    match provider {
        Provider::Oss => &OF_OSS,
        Provider::Tos => &OF_TOS,
        _ => &[],
    }
}

/// What the sources are told.
struct Start {
    given: Option<StaticCredentials>,
    /// The profile that was named outright.
    profile: Option<String>,
    provider: Provider,
    /// Of AWS's services, as far as a flag names it.
    region: Option<String>,
    /// Where this program was started: helpers run there.
    dir: PathBuf,
    ca_bundle: Option<PathBuf>,
    clock: Arc<StoreClock>,
}

/// The credentials of a store, and where they come from.
pub fn open(
    settings: &S3Settings,
    provider: Provider,
    clock: &Arc<StoreClock>,
) -> (Arc<Cache>, Found) {
    let chain = Chain::new(Start {
        given: settings.credentials.clone(),
        profile: settings.profile.clone(),
        provider,
        // That of another provider means nothing to AWS's services.
        region: settings.region.clone().filter(|_| provider == Provider::Aws),
        dir: settings.start_dir.clone(),
        ca_bundle: settings.connections.ca_bundle.clone(),
        clock: clock.clone(),
    });
    let found = Found(chain.found.clone());
    (Cache::new(chain, clock.clone()), found)
}

/// The sources, in the order in which they are asked.
struct Chain {
    start: Start,
    kinds: &'static [Kind],
    /// The source that has given credentials, and its name.
    found: Arc<OnceLock<(Kind, String)>>,
}

/// Which source has given credentials, in a few words. Empty until one has.
#[derive(Clone)]
pub struct Found(Arc<OnceLock<(Kind, String)>>);

impl Found {
    pub fn name(&self) -> Option<&str> {
        self.0.get().map(|(_, name)| name.as_str())
    }
}

impl Chain {
    fn new(start: Start) -> Chain {
        let kinds: &[Kind] = match (&start.given, &start.profile) {
            (Some(_), _) => &[Kind::Given],
            // A profile named outright is meant: another source must not answer in its place.
            (None, Some(_)) => &[Kind::Profile],
            (None, None) => EVERYWHERE,
        };
        Chain { start, kinds, found: Arc::default() }
    }

    /// What this source says, as what it means.
    async fn ask_one(&self, kind: Kind, profile: &Profile) -> Result<Option<Credentials>, Failure> {
        check(kind, profile)?;
        let is_found = self.found.get().is_some();
        // A machine's service is there or is not; all others are set up.
        if !is_found && kind != Kind::Machine && !self.is_set_up(kind, profile) {
            return Ok(None);
        }
        let name = || self.name_of(kind, profile);
        let notes = Notes::default();
        match self.provide(kind, profile, &notes).await? {
            Ok(credentials) => Ok(Some(credentials)),
            Err(CredentialsError::CredentialsNotLoaded(_))
                if kind == Kind::Machine && !is_found =>
            {
                Ok(None)
            }
            Err(CredentialsError::CredentialsNotLoaded(_))
                if !matches!(kind, Kind::Machine | Kind::Profile) =>
            {
                Err(Failure::Failed(format!("{} is set up in part only", name())))
            }
            Err(error) => {
                let cause = notes.take().unwrap_or_else(|| cause_of(&error));
                let cure = cure_of(kind, profile);
                Err(Failure::Failed(format!("{} fails: {cause}{cure}", name())))
            }
        }
    }

    /// Asks the library. Providers are made anew: files may have changed, and one that remembers would hide that its
    /// service fails.
    async fn provide(
        &self,
        kind: Kind,
        profile: &Profile,
        notes: &Notes,
    ) -> Result<Result<Credentials, CredentialsError>, Failure> {
        match kind {
            Kind::Given => Ok(self.start.given.as_ref().map(of_given).ok_or_else(none)),
            Kind::Own => {
                let all = own_variables(self.start.provider).iter();
                Ok(all.copied().find(is_any_set).and_then(of_variables).ok_or_else(none))
            }
            Kind::Environment => {
                Ok(EnvironmentVariableCredentialsProvider::new().provide_credentials().await)
            }
            _ => Ok(self.provide_by(kind, profile, &self.config(profile, notes)?).await),
        }
    }

    async fn provide_by(
        &self,
        kind: Kind,
        profile: &Profile,
        config: &ProviderConfig,
    ) -> Result<Credentials, CredentialsError> {
        match kind {
            Kind::Profile => {
                let text = |kind| profile.placed(kind, &self.start.dir);
                let files = EnvConfigFiles::builder()
                    .with_contents(EnvConfigFileKind::Config, text(profile::Kind::Config))
                    .with_contents(
                        EnvConfigFileKind::Credentials,
                        text(profile::Kind::Credentials),
                    );
                let named = ProfileFileCredentialsProvider::builder().profile_name(&profile.name);
                let provider = named.profile_files(files.build()).configure(config).build();
                provider.provide_credentials().await
            }
            Kind::WebIdentity => {
                let provider = WebIdentityTokenCredentialsProvider::builder();
                provider.configure(config).build().provide_credentials().await
            }
            Kind::Container => {
                let provider = EcsCredentialsProvider::builder().configure(config).build();
                provider.provide_credentials().await
            }
            _ => {
                let provider = ImdsCredentialsProvider::builder().configure(config).build();
                provider.provide_credentials().await
            }
        }
    }

    fn config(&self, profile: &Profile, notes: &Notes) -> Result<ProviderConfig, Failure> {
        let region = self.start.region.clone();
        let region =
            region.or_else(|| variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")));
        let region = region.or_else(|| profile.get("region").map(str::to_owned));
        let region = region.unwrap_or_else(|| DEFAULT_REGION.to_owned());
        let web = Web::new(self.start.ca_bundle.as_deref(), notes.clone());
        let web = web.map_err(|error| Failure::Failed(error.message))?;
        Ok(ProviderConfig::without_region()
            .with_region(Some(Region::new(region)))
            .with_time_source(Time(self.start.clock.clone()))
            .with_http_client(web))
    }

    fn is_set_up(&self, kind: Kind, profile: &Profile) -> bool {
        match kind {
            Kind::Given => true,
            Kind::Own => own_variables(self.start.provider).iter().any(is_any_set),
            Kind::Environment => is_any_set(&OF_AWS),
            Kind::Profile => profile.has_any(&[
                "aws_access_key_id",
                "aws_secret_access_key",
                "role_arn",
                "source_profile",
                "credential_source",
                "credential_process",
                "sso_session",
                "sso_account_id",
                "sso_start_url",
                "web_identity_token_file",
            ]),
            Kind::WebIdentity => variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_some(),
            Kind::Container => {
                variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").is_some()
                    || variable("AWS_CONTAINER_CREDENTIALS_FULL_URI").is_some()
            }
            Kind::Machine => false,
        }
    }

    fn name_of(&self, kind: Kind, profile: &Profile) -> String {
        match kind {
            Kind::Given => "the key pair".to_owned(),
            Kind::Own => {
                let set = own_variables(self.start.provider).iter().find(|it| is_any_set(it));
                let [key, secret, _] = set.unwrap_or(&OF_AWS);
                format!("{key} with {secret}")
            }
            Kind::Environment => format!("{} with {}", OF_AWS[0], OF_AWS[1]),
            Kind::Profile => name_in_profile(profile),
            Kind::WebIdentity => "web identity (AWS_WEB_IDENTITY_TOKEN_FILE)".to_owned(),
            Kind::Container => "the container's credential service".to_owned(),
            Kind::Machine => "the machine's metadata service".to_owned(),
        }
    }
}

#[async_trait]
impl Source for Chain {
    async fn ask(&self) -> Result<Credentials, Failure> {
        let named = self.start.profile.clone();
        let profile = blocking::run(move || Profile::read(named.as_deref())).await;
        let profile = profile.map_err(|_| Failure::Failed("reading the files died".to_owned()))?;
        for kind in self.kinds {
            if self.found.get().is_some_and(|(found, _)| found != kind) {
                continue;
            }
            if let Some(credentials) = self.ask_one(*kind, &profile).await? {
                self.found.get_or_init(|| (*kind, self.name_of(*kind, &profile)));
                return Ok(credentials);
            }
        }
        Err(Failure::None)
    }
}

/// Refuses what the library would pass over in silence, or cannot do.
fn check(kind: Kind, profile: &Profile) -> Result<(), Failure> {
    let refuse = |line| Err(Failure::Failed(line));
    if kind != Kind::Profile {
        return Ok(());
    }
    let name = &profile.name;
    if let Some(file) = profile.unreadable.first() {
        return refuse(file.clone());
    }
    if profile.is_named && !profile.exists {
        return refuse(format!("there is no profile {name:?} in the AWS configuration files"));
    }
    for (setting, what) in [
        ("mfa_serial", "asks for a code (mfa_serial)"),
        ("login_session", "is that of aws login (login_session)"),
    ] {
        if profile.has_any(&[setting]) {
            return refuse(format!("profile {name:?} {what}, which is {OTHERWISE}"));
        }
    }
    Ok(())
}

/// What gives the credentials of a profile. Where it has several, the first of these is the library's choice.
fn name_in_profile(profile: &Profile) -> String {
    let kinds = [
        ("web_identity_token_file", "web identity"),
        ("role_arn", "the role (role_arn)"),
        ("credential_source", "credential_source"),
        ("sso_session", "SSO"),
        ("sso_start_url", "SSO"),
        ("sso_account_id", "SSO"),
        ("credential_process", "credential_process"),
    ];
    let set = kinds.iter().find(|(setting, _)| profile.has_any(&[setting]));
    format!("{} of profile {:?}", set.map_or("the key pair", |(_, name)| name), profile.name)
}

/// What helps where a failure does not tell it.
fn cure_of(kind: Kind, profile: &Profile) -> &'static str {
    if kind == Kind::Profile && profile.has_any(&["sso_session", "sso_start_url"]) {
        return "; run aws sso login";
    }
    ""
}

fn is_any_set(variables: &Variables) -> bool {
    variables[..2].iter().any(|name| variable(name).is_some())
}

/// `None` where a half is missing.
fn of_variables([key, secret, token]: Variables) -> Option<Credentials> {
    Some(Credentials::new(variable(key)?, variable(secret)?, variable(token), None, "Environment"))
}

fn of_given(given: &StaticCredentials) -> Credentials {
    let (key, secret) = (given.access_key.as_str(), given.secret_key.as_str());
    Credentials::new(key, secret, given.session_token.clone(), None, "Given")
}

fn none() -> CredentialsError {
    CredentialsError::not_loaded_no_source()
}

/// The store's time, for what the library signs.
#[derive(Debug)]
struct Time(Arc<StoreClock>);

impl TimeSource for Time {
    fn now(&self) -> SystemTime {
        self.0.signing()
    }
}
