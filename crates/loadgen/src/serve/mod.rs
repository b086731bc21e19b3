//! `loadgen serve`: the misbehaving target, so that every claim can be tried on one machine.

pub mod model;

/// Flags of `loadgen serve`.
#[derive(clap::Args, Clone, Debug)]
pub struct ServeArgs {
    /// http, udp or tcp
    pub kind: String,
    /// IP:PORT
    #[arg(default_value = "127.0.0.1:0")]
    pub addr: String,
}

/// `loadgen serve`: runs until a signal ends it.
///
/// # Errors
/// The address cannot be bound.
pub fn run(args: &ServeArgs) -> anyhow::Result<u8> {
    let _ = args;
    anyhow::bail!("loadgen serve is not built yet")
}
