use std::path::Path;

use annals::{ExpectedVersion, Log, NewEvent, Options, Position, Read, Verdict};

use super::{Kind, Report, Store, read_on, text};
use crate::work::{SEGMENT_BYTES, stream};

pub(super) const KIND: Kind = Kind {
    name: "annals",
    setting: "default (`Durability::Sync`), `segment_bytes` 16 KiB",
    documented: "[durability.md](durability.md), section 4: what an open finds; section 6: what is not promised (a last group whose sectors vanish looks torn).",
    open,
    check: Some(("`annals verify`", check)),
};

struct Annals(Log);

fn open(dir: &Path, create: bool) -> Result<Box<dyn Store>, String> {
    let log = Log::open(dir, Options::new().create(create).segment_bytes(SEGMENT_BYTES)).map_err(text)?;
    Ok(Box::new(Annals(log)))
}

fn check(dir: &Path) -> Result<(), String> {
    let report = annals::verify(dir, |_| ()).map_err(text)?;
    if report.is_whole() {
        return Ok(());
    }
    let first = report.damages.iter().chain(&report.derived_damages).next();
    Err(first.map_or_else(|| format!("{:?}", report.verdict), ToString::to_string))
}

impl Store for Annals {
    fn append(&mut self, n: u64, data: &[u8]) -> Result<(), String> {
        let stream = format!("stream-{}", stream(n));
        self.0
            .append(&stream, ExpectedVersion::Any, &[NewEvent::new("work", data)])
            .map(drop)
            .map_err(text)
    }

    fn read(&mut self, event: &mut dyn FnMut(&[u8]), error: &mut dyn FnMut(String)) {
        let end = self.0.last_position().get();
        let read_after = |after: u64, each: &mut dyn FnMut(u64, &[u8])| {
            if after >= end {
                return Ok(());
            }
            let mut events = self
                .0
                .read_all(Read::forward().from(Position::new(after + 1)))
                .map_err(text)?;
            while let Some(event) = events.next_ref() {
                let event = event.map_err(text)?;
                each(event.position.get(), event.data);
            }
            Ok(())
        };
        read_on(read_after, event, error);
    }

    fn report(&self) -> Report {
        let report = self.0.recovery();
        let what = format!("verdict {:?}, {} bytes cut off", report.verdict, report.cut_bytes);
        match report.verdict {
            Verdict::Clean => Report::Nothing,
            Verdict::TornTail => Report::Unfinished(what),
            _ => Report::PerhapsLost(what),
        }
    }

    fn close(self: Box<Self>) -> Result<(), String> {
        self.0.close().map_err(text)
    }
}
