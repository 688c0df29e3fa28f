//! The demo's settings, from the environment.

use anyhow::{Context as _, Result, bail};
use tidemark_local::{HUB, Port, REGIONS, SECOND};

/// Most made-up pages that make sense on one machine.
const PAGES_MAX: u64 = 100_000_000;

/// What the caller chose.
#[derive(Debug)]
pub(crate) struct Settings {
    /// End after the summary instead of waiting for Ctrl-C.
    pub(crate) once: bool,
    /// How many made-up product pages to add to the packages' pages.
    pub(crate) product_pages: u64,
    /// The local cloud's port.
    pub(crate) cloud_port: Port,
    /// The Redis servers' ports, in the order of [`REGIONS`].
    pub(crate) redis_ports: [Port; 2],
}

impl Settings {
    /// Reads ONCE, PAGES, TIDEMARK_LOCAL_PORT and TIDEMARK_REDIS_*_PORT. An empty variable counts as not set.
    pub(crate) fn from_environment(read: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let read = &|name: &str| read(name).filter(|value| !value.is_empty());
        let once = match read("ONCE").as_deref() {
            None | Some("0") => false,
            Some("1") => true,
            Some(other) => bail!("ONCE is {other:?}: give 1 to end after the summary, or leave it out"),
        };
        let product_pages = match read("PAGES") {
            None => 0,
            Some(text) => text
                .parse()
                .ok()
                .filter(|pages| *pages <= PAGES_MAX)
                .with_context(|| format!("PAGES is {text:?}: give a whole number up to {PAGES_MAX}"))?,
        };
        let cloud_port = port("TIDEMARK_LOCAL_PORT", read)?;
        let redis_ports = [redis_port(HUB, read)?, redis_port(SECOND, read)?];
        Ok(Self { once, product_pages, cloud_port, redis_ports })
    }
}

/// The variable that holds the address of `region`'s Redis.
fn redis_port(region: &str, read: impl Fn(&str) -> Option<String>) -> Result<Port> {
    debug_assert!(REGIONS.contains(&region), "a region of the local cloud: {region}");
    port(&format!("TIDEMARK_REDIS_{}_PORT", region.to_uppercase().replace('-', "_")), read)
}

fn port(name: &str, read: impl Fn(&str) -> Option<String>) -> Result<Port> {
    let Some(text) = read(name) else { return Ok(Port::Free) };
    let port: u16 = text.parse().with_context(|| format!("{name} is {text:?}: give a port from 1 to 65535"))?;
    if port == 0 {
        return Ok(Port::Free);
    }
    Ok(Port::Fixed { port, setting: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::from_environment(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_set_means_free_ports_and_staying_up() {
        let settings = settings(&[("ONCE", ""), ("PAGES", "")]).unwrap();
        assert!(!settings.once);
        assert_eq!(settings.product_pages, 0);
        assert_eq!(settings.cloud_port, Port::Free);
    }

    #[test]
    fn a_wrong_value_is_named() {
        for (name, value) in [
            ("ONCE", "yes"),
            ("PAGES", "many"),
            ("TIDEMARK_LOCAL_PORT", "99999"),
            ("TIDEMARK_REDIS_US_EAST_1_PORT", "x"),
        ] {
            let message = settings(&[(name, value)]).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains(value), "{message}");
        }
    }
}
