//! The table of requirements.

use crate::{Asks, Place, Requirement};

mod start;
mod wire;

/// Every requirement of the contract, in the order of the project's numbers.
pub fn requirements() -> &'static [Requirement] {
    REQUIREMENTS
}

const fn everybody(
    id: &'static str,
    name: &'static str,
    sentence: &'static str,
    check: fn(&crate::Subject) -> Result<(), crate::Unmet>,
) -> Requirement {
    Requirement { id, name, sentence, asks: Asks::Everybody, place: Place::Here, check }
}

const fn rungs(
    id: &'static str,
    name: &'static str,
    sentence: &'static str,
    check: fn(&crate::Subject) -> Result<(), crate::Unmet>,
) -> Requirement {
    Requirement { id, name, sentence, asks: Asks::Rungs, place: Place::Here, check }
}

const REQUIREMENTS: &[Requirement] = &[
    rungs(
        "C01",
        "greeting",
        "the first line on stdout says where it listens and how to poke it, and stderr is empty",
        start::greeting,
    ),
    everybody("R01", "sizes", "an echo is byte-equal, from 0 to 65,507 bytes", wire::sizes),
    everybody("R02", "order", "datagrams of one peer come back to it alone, in order", wire::order),
];
