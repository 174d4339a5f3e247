//! Which region to sign for, and which of its endpoints to ask, as far as this machine knows: settings, environment, profile
//! file, host name. Where the bucket is in another region than that, an answer says so (see [`super::client`]).

use super::access_point::AccessPoint;
use super::endpoint::host_of;
use super::identity::{Profile, variable};
use super::provider::{Provider, Variant};
use super::settings::S3Settings;
use crate::blocking;
use crate::store::{ErrorKind, Result, StoreError};

/// What AWS tools and S3-compatible servers take when nothing is said.
pub const DEFAULT_REGION: &str = "us-east-1";

/// Looks everywhere on this machine; reads the AWS configuration file.
pub async fn find(settings: &S3Settings, provider: Provider) -> String {
    // Its own name says it.
    if let Ok(Some(point)) = AccessPoint::of(&settings.bucket) {
        return point.region.to_owned();
    }
    if let Some(region) = &settings.region {
        return region.clone();
    }
    // The endpoint's own name is nearer than a default of the environment.
    let host = settings.endpoint_url.as_deref().and_then(|url| host_of(url).ok());
    if let Some(region) = host.and_then(|host| provider.region_of_host(&host)) {
        return region;
    }
    if settings.profile.is_none()
        && let Some(name) = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"))
    {
        return name;
    }
    let named = settings.profile.clone();
    let read = blocking::run(move || Profile::read(named.as_deref())).await;
    let of_profile = read.ok().and_then(|it| it.get("region").map(str::to_owned));
    of_profile.unwrap_or_else(|| DEFAULT_REGION.to_owned())
}

/// Which of Amazon's endpoints the environment or a profile asks for, by the names of AWS's own tools ("Dual-stack and FIPS
/// endpoints"). An endpoint that is named outright is what it is.
///
/// # Errors
/// One of them is set to what is neither true nor false.
pub async fn find_variant(settings: &S3Settings, provider: Provider) -> Result<Variant> {
    if provider != Provider::Aws || settings.endpoint_url.is_some() {
        return Ok(Variant::default());
    }
    let named = settings.profile.clone();
    let profile = blocking::run(move || Profile::read(named.as_deref())).await.unwrap_or_default();
    variant_of(variable, |name| profile.get(name).map(str::to_owned))
}

fn variant_of(
    variable: impl Fn(&str) -> Option<String>,
    setting: impl Fn(&str) -> Option<String>,
) -> Result<Variant> {
    let wanted = |variable_name: &str, setting_name: &str| {
        let of_variable = variable(variable_name).map(|value| (variable_name.to_owned(), value));
        let of_profile = || {
            let value = setting(setting_name)?;
            Some((format!("{setting_name} of the AWS profile"), value))
        };
        let Some((name, value)) = of_variable.or_else(of_profile) else { return Ok(false) };
        match value.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => {
                let message = format!("{name} is {value:?}; set it to true or false");
                Err(StoreError::new(ErrorKind::Invalid, "Connect", message))
            }
        }
    };
    Ok(Variant {
        dual_stack: wanted("AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint")?,
        fips: wanted("AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_nearest_names_the_region() {
        let mut settings = S3Settings::new("b");
        settings.endpoint_url = Some("https://s3.oss-cn-beijing.aliyuncs.com".into());
        assert_eq!(find(&settings, Provider::Oss).await, "cn-beijing");
        settings.region = Some("elsewhere".into());
        assert_eq!(find(&settings, Provider::Oss).await, "elsewhere");
        settings.bucket = "arn:aws:s3:us-west-2:123456789012:accesspoint/p".into();
        assert_eq!(find(&settings, Provider::Aws).await, "us-west-2");
    }

    #[test]
    fn the_environment_and_then_the_profile_ask_for_a_variant() {
        let nothing = |_: &str| None;
        let yes = |wanted: &'static str, value: &'static str| {
            move |name: &str| (name == wanted).then(|| value.to_owned())
        };
        let (dual_stack, fips) = ("AWS_USE_DUALSTACK_ENDPOINT", "use_fips_endpoint");
        assert_eq!(variant_of(nothing, nothing).unwrap(), Variant::default());
        let both = variant_of(yes(dual_stack, "true"), yes(fips, "True")).unwrap();
        assert_eq!(both, Variant { dual_stack: true, fips: true });
        let none = variant_of(yes("AWS_USE_FIPS_ENDPOINT", "false"), yes(fips, "true")).unwrap();
        assert_eq!(none, Variant::default());
        let told = variant_of(nothing, yes(fips, "yes")).unwrap_err().to_string();
        assert!(told.contains("use_fips_endpoint of the AWS profile is \"yes\""), "{told}");
    }
}
