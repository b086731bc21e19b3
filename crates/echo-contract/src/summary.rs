//! The summary of `--json`, read strictly.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;

use crate::verdict::{Unmet, ensure, fails};

/// Exactly the fields of the contract: one more or one less is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    pub(crate) program: String,
    pub(crate) address: String,
    pub(crate) seconds: f64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) truncated: u64,
    pub(crate) queue_dropped: u64,
    pub(crate) queue_peak: u64,
    pub(crate) send_errors: BTreeMap<String, u64>,
    pub(crate) receive_errors: BTreeMap<String, u64>,
    pub(crate) kernel_dropped: u64,
}

impl Summary {
    pub(crate) fn parse(line: &str) -> Result<Self, Unmet> {
        match serde_json::from_str(line) {
            Ok(summary) => Ok(summary),
            Err(error) => fails(format!("the summary is not the object of the contract: {error}: {line:?}")),
        }
    }

    /// What holds of every summary: who and where, and the sum.
    pub(crate) fn check(&self, program: &str, address: SocketAddr) -> Result<(), Unmet> {
        ensure(self.program == program, || format!("`program` is {:?}, not {program:?}", self.program))?;
        ensure(self.address == address.to_string(), || {
            format!("`address` is {:?}, not {address}", self.address)
        })?;
        ensure(self.seconds.is_finite() && self.seconds >= 0.0, || format!("`seconds` is {}", self.seconds))?;
        let accounted =
            self.sent + sum(&self.refused) + self.truncated + self.queue_dropped + sum(&self.send_errors);
        ensure(self.received == accounted, || {
            format!(
                "received = sent + sum(refused) + truncated + queue_dropped + sum(send_errors) does not hold: \
                 {} != {accounted}: {self:?}",
                self.received
            )
        })
    }

    /// Fails unless each count is as named; those not named have to be 0. Sizes are not compared.
    pub(crate) fn expect(&self, received: u64, sent: u64) -> Result<(), Unmet> {
        ensure(self.received == received && self.sent == sent, || {
            format!(
                "`received` and `sent` are {} and {}, not {received} and {sent}: {self:?}",
                self.received, self.sent
            )
        })
    }
}

/// The sum of counts.
pub(crate) fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

/// The counts that are not 0.
pub(crate) fn nonzero(counts: &BTreeMap<String, u64>) -> BTreeMap<&str, u64> {
    counts.iter().filter(|(_, count)| **count > 0).map(|(name, count)| (name.as_str(), *count)).collect()
}
