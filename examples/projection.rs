//! A projection: a view of the log, kept up to date by a subscription while others append.
//!
//! `cargo run --example projection -- DIR`

use std::collections::BTreeMap;

use annals::{ExpectedVersion, Log, NewEvent, Options, Position};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "target/example-projection".into());
    let log = Log::open(dir, Options::new())?;

    let subscription = log.subscribe(Position::START)?;
    let projection = std::thread::spawn(move || -> annals::Result<_> {
        let mut events_by_type = BTreeMap::<String, u64>::new();
        // Ends when the log is closed and everything has been seen.
        for event in subscription {
            *events_by_type.entry(event?.event_type().to_owned()).or_default() += 1;
        }
        Ok(events_by_type)
    });

    for n in 0..100 {
        let kind = if n % 3 == 0 { "OrderPlaced" } else { "ItemAdded" };
        log.append(
            &format!("order-{}", n % 10),
            ExpectedVersion::Any,
            &[NewEvent::new(kind, "{}")],
        )?;
    }
    log.close()?;
    let events_by_type = projection.join().map_err(|_| "the projection panicked")??;
    eprintln!("{events_by_type:?}");
    Ok(())
}
