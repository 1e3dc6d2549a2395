//! Many durable appends in flight from one thread: tickets.
//!
//! `cargo run --release --example in_flight -- DIR`

use std::collections::VecDeque;
use std::time::Instant;

use annals::{Batch, ExpectedVersion, Log, NewEvent, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "target/example-in-flight".into());
    let log = Log::open(dir, Options::new())?;
    let started = Instant::now();
    let mut in_flight = VecDeque::new();
    let mut batch = Batch::new();
    for n in 0..200_000u32 {
        let data = format!("{{\"reading\": {n}}}");
        batch.clear();
        batch.add(
            &format!("sensor-{}", n % 100),
            ExpectedVersion::Any,
            &[NewEvent::new("Measured", &data)],
        )?;
        in_flight.push_back(log.append_async(&batch)?);
        // What is done is taken off the front: tickets are done in the order in which they were given.
        while in_flight.len() > 10_000 {
            if let Some(ticket) = in_flight.pop_front() {
                ticket.wait()?;
            }
        }
    }
    for ticket in in_flight {
        ticket.wait()?;
    }
    eprintln!(
        "200,000 durable events in {:?}, the last at position {}",
        started.elapsed(),
        log.last_position()
    );
    log.close()?;
    Ok(())
}
