//! Which region to sign for, as far as this machine knows: settings, environment, profile file, host name.
//! What none of them tells is guessed, and corrected by the store's first answer (see [`super::exchange`]).

use super::endpoint::host_of;
use super::identity::{Profile, variable};
use super::provider::Provider;
use super::settings::S3Settings;
use crate::blocking;

/// What AWS tools and S3-compatible servers take when nothing is said.
pub const DEFAULT_REGION: &str = "us-east-1";

/// A region, and whether the user or the endpoint named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pub name: String,
    pub guessed: bool,
}

/// Looks everywhere on this machine; reads the AWS configuration file.
pub async fn find(settings: &S3Settings, provider: Provider) -> Region {
    let named = |name: String| Region { name, guessed: false };
    if let Some(region) = &settings.region {
        return named(region.clone());
    }
    // The endpoint's own name is nearer than a default of the environment.
    let host = settings.endpoint_url.as_deref().and_then(|url| host_of(url).ok());
    if let Some(region) = host.and_then(|host| provider.region_of_host(&host)) {
        return named(region);
    }
    // Another provider's store knows nothing of the AWS region that the environment or a profile names,
    // but its user may have set it on purpose, so it is tried first and corrected like a guess.
    let guessed = provider != Provider::Aws;
    if settings.profile.is_none()
        && let Some(name) = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"))
    {
        return Region { name, guessed };
    }
    let named = settings.profile.clone();
    let read = blocking::run(move || Profile::read(named.as_deref())).await;
    if let Some(name) = read.ok().and_then(|it| it.get("region").map(str::to_owned)) {
        return Region { name, guessed };
    }
    Region { name: DEFAULT_REGION.to_owned(), guessed: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn settings_and_host_names_are_no_guesses() {
        let mut settings = S3Settings::new("b");
        settings.endpoint_url = Some("https://s3.oss-cn-beijing.aliyuncs.com".into());
        let region = find(&settings, Provider::Oss).await;
        assert_eq!(region, Region { name: "cn-beijing".into(), guessed: false });
        settings.region = Some("elsewhere".into());
        assert_eq!(find(&settings, Provider::Oss).await.name, "elsewhere");
    }
}
