//! Settings of the cron function.

use serde::{Deserialize, Serialize};
use tidemark_cache_sync::keys::REPLAY_FUNCTION;
use tidemark_cache_sync::lane::{Lanes, read_lanes};
use tidemark_runtime::settings::{SettingError, Settings};

/// Settings of the cron function.
#[derive(Clone, Debug)]
pub struct CronSettings {
    /// The function's own name; work that outlasts one invocation is gone on with by invoking it again.
    pub function: String,
    /// The stream of changes.
    pub stream: String,
    /// How many lanes it has.
    pub lanes: Lanes,
    /// Every region and its bucket, the hub first.
    pub regions: Vec<RegionPlace>,
    /// The state bucket.
    pub bucket: String,
    /// Name of the regional function.
    pub replay_function: String,
}

/// A region and its bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionPlace {
    /// The region.
    pub region: String,
    /// Its bucket.
    pub bucket: String,
}

impl CronSettings {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// [`SettingError`] with the variable's name.
    pub fn read(settings: &Settings<'_>) -> Result<Self, SettingError> {
        let regions =
            settings.required("TIDEMARK_REGIONS", "every region and its bucket: REGION=BUCKET,…, hub first")?;
        Ok(Self {
            function: settings.optional("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|| "tidemark-cron".to_owned()),
            stream: settings.required("TIDEMARK_STREAM", "the Kinesis stream of changes")?,
            lanes: read_lanes(settings)?,
            regions: parse_regions(&regions)?,
            bucket: settings.required("TIDEMARK_BUCKET", "the state bucket")?,
            replay_function: settings
                .optional("TIDEMARK_REPLAY_FUNCTION")
                .unwrap_or_else(|| REPLAY_FUNCTION.to_owned()),
        })
    }

    /// The region called `name`.
    ///
    /// # Errors
    /// A sentence that names the regions there are.
    pub fn region(&self, name: &str) -> Result<&RegionPlace, String> {
        self.regions.iter().find(|place| place.region == name).ok_or_else(|| {
            let known: Vec<&str> = self.regions.iter().map(|place| place.region.as_str()).collect();
            format!("region {name:?} is not one of this deployment: {}", known.join(", "))
        })
    }
}

fn parse_regions(text: &str) -> Result<Vec<RegionPlace>, SettingError> {
    let places: Option<Vec<RegionPlace>> = text
        .split(',')
        .map(|pair| {
            let (region, bucket) = pair.trim().split_once('=')?;
            let whole = !region.is_empty() && !bucket.is_empty();
            whole.then(|| RegionPlace { region: region.to_owned(), bucket: bucket.to_owned() })
        })
        .collect();
    places.ok_or_else(|| SettingError::Invalid {
        name: "TIDEMARK_REGIONS",
        value: text.to_owned(),
        reason: "write REGION=BUCKET,REGION=BUCKET, the hub first".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_pairs_and_a_bad_one_is_named() {
        let places = parse_regions("us-east-1=a, ap-northeast-2=b").unwrap();
        assert_eq!(places[1], RegionPlace { region: "ap-northeast-2".into(), bucket: "b".into() });
        for bad in ["", "us-east-1", "us-east-1=", "=b", "us-east-1=a,,"] {
            assert!(parse_regions(bad).unwrap_err().to_string().contains("TIDEMARK_REGIONS"), "{bad:?}");
        }
    }
}
