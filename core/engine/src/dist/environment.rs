//! The variables that say who a rank is, as `torchrun` and others set them.

use std::fmt;

use crate::{Error, Result};

/// What must be set for several processes, and not be set for one.
pub const VARIABLES: [&str; 5] = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"];

/// Who this process is among those that train together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Its number, from 0.
    pub rank: usize,
    /// Number of processes.
    pub world_size: usize,
    /// Its number on its machine, from 0.
    pub local_rank: usize,
    /// Address of rank 0's machine.
    pub master_addr: String,
    /// A port there.
    pub master_port: u16,
    /// Whether somebody else hosts the store there: the agent of `torchrun` does.
    pub hosted: bool,
    /// Number of the attempt, where an agent starts ranks again: keys of earlier ones stay in its store.
    pub attempt: String,
}

impl Environment {
    /// Reads the variables; `None` where none is set.
    ///
    /// # Errors
    /// [`Error::Settings`] if only some are set, or one makes no sense.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let values = VARIABLES.map(|name| get(name).filter(|value| !value.is_empty()));
        let named = |wanted: bool| -> Vec<&str> {
            let all = VARIABLES.iter().zip(&values);
            all.filter(|(_, value)| value.is_some() == wanted)
                .map(|(name, _)| *name)
                .collect()
        };
        let [
            Some(rank),
            Some(world_size),
            Some(local_rank),
            Some(master_addr),
            Some(master_port),
        ] = &values
        else {
            let (set, unset) = (named(true), named(false));
            if set.is_empty() {
                return Ok(None);
            }
            return Err(Error::Settings(format!(
                "{} is set, {} is not: several processes need all of them (torchrun sets them), one process none",
                set.join(", "),
                unset.join(", ")
            )));
        };
        let environment = Self {
            rank: number("RANK", rank)?,
            world_size: number("WORLD_SIZE", world_size)?,
            local_rank: number("LOCAL_RANK", local_rank)?,
            master_addr: master_addr.clone(),
            master_port: number("MASTER_PORT", master_port)?,
            hosted: get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value.eq_ignore_ascii_case("true")),
            attempt: get("TORCHELASTIC_RESTART_COUNT").unwrap_or_default(),
        };
        if environment.rank >= environment.world_size {
            return Err(Error::Settings(format!(
                "RANK={rank} does not fit WORLD_SIZE={world_size}: ranks are 0 to WORLD_SIZE - 1"
            )));
        }
        Ok(Some(environment))
    }

    /// `host:port` of rank 0.
    pub fn address(&self) -> String {
        format!("{}:{}", self.master_addr, self.master_port)
    }

    /// Before every key, so that attempts and other programs don't meet.
    pub(super) fn prefix(&self) -> String {
        format!("yolo/{}", self.attempt)
    }

    /// Where Gloo listens, if that is known: ranks that meet at a loopback address are all on this machine.
    pub(super) fn local_address(&self) -> Option<&'static str> {
        let here = self.master_addr == "localhost" || self.master_addr.starts_with("127.") || self.master_addr == "::1";
        (here && std::env::var_os("GLOO_SOCKET_IFNAME").is_none()).then_some("127.0.0.1")
    }

    /// This process in words.
    pub(super) fn place(&self) -> String {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() {
            "unknown host"
        } else {
            host.trim()
        };
        format!("{host}, process {}", std::process::id())
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T>
where
    T::Err: fmt::Display,
{
    text.trim()
        .parse()
        .map_err(|error| Error::Settings(format!("{name}={text}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Option<Environment>> {
        Environment::read(|name| {
            let found = set.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const ALL: [(&str, &str); 5] = [
        ("RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", "0"),
        ("MASTER_ADDR", "10.0.0.1"),
        ("MASTER_PORT", "29500"),
    ];

    #[test]
    fn all_or_none_are_set() {
        assert_eq!(read(&[]).expect("none"), None);
        let all = read(&ALL).expect("good").expect("set");
        assert_eq!((all.rank, all.world_size, all.hosted), (1, 2, false));
        assert_eq!(all.address(), "10.0.0.1:29500");
        for missing in 0..ALL.len() {
            let mut some = ALL.to_vec();
            let (name, _) = some.remove(missing);
            let error = read(&some).expect_err("half set").to_string();
            assert!(error.contains(&format!(" is set, {name} is not")), "{error}");
        }
    }

    #[test]
    fn values_must_make_sense() {
        for (index, value, text) in [
            (0, "2", "RANK=2 does not fit WORLD_SIZE=2"),
            (0, "-1", "RANK=-1"),
            (1, "two", "WORLD_SIZE=two"),
            (4, "70000", "MASTER_PORT=70000"),
        ] {
            let mut some = ALL;
            some[index].1 = value;
            let error = read(&some).expect_err("no number").to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn an_agent_that_hosts_the_store_is_noticed() {
        let mut some = ALL.to_vec();
        some.push(("TORCHELASTIC_USE_AGENT_STORE", "True"));
        some.push(("TORCHELASTIC_RESTART_COUNT", "3"));
        let environment = read(&some).expect("good").expect("set");
        assert!(environment.hosted);
        assert_eq!(environment.prefix(), "yolo/3");
    }
}
