//! Ports on 127.0.0.1.

use crate::error::LocalError;
use std::net::{Ipv4Addr, TcpListener};

/// How often a server is tried on another free port when somebody took the one it was given.
pub(crate) const FREE_PORT_ATTEMPTS_MAX: usize = 5;

/// Which port a server takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Port {
    /// Any that is free.
    #[default]
    Free,
    /// This one and no other.
    Fixed {
        /// The port.
        port: u16,
        /// What chose it (the name of a variable), for the error when it is taken.
        setting: String,
    },
}

impl Port {
    /// The port to try now.
    ///
    /// # Errors
    /// [`LocalError::PortTaken`] when a fixed port is in use.
    pub(crate) fn pick(&self, server: &'static str) -> Result<u16, LocalError> {
        match self {
            Self::Free => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .and_then(|listener| listener.local_addr())
                .map(|address| address.port())
                .map_err(LocalError::io("find a free port", "127.0.0.1")),
            Self::Fixed { port, setting } => match TcpListener::bind((Ipv4Addr::LOCALHOST, *port)) {
                Ok(_) => Ok(*port),
                Err(_) => Err(LocalError::PortTaken { port: *port, server, setting: setting.clone() }),
            },
        }
    }

    /// How many starts are worth trying: a fixed port gets one.
    pub(crate) fn attempts_max(&self) -> usize {
        match self {
            Self::Free => FREE_PORT_ATTEMPTS_MAX,
            Self::Fixed { .. } => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_fixed_port_is_refused_with_the_name_of_its_setting() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let fixed = Port::Fixed { port, setting: "TIDEMARK_LOCAL_PORT".to_owned() };
        let message = fixed.pick("the local cloud").unwrap_err().to_string();
        assert!(message.contains(&port.to_string()) && message.contains("TIDEMARK_LOCAL_PORT"), "{message}");
    }
}
