use std::path::Path;

use annals::{ExpectedVersion, Log, NewEvent, OpenMode, Options, Position, Read, Verdict};

use super::{Kind, Report, Store, read_on, text};
use crate::work::{SEGMENT_BYTES, stream};

pub(super) const KIND: Kind = Kind {
    name: "annals",
    setting: "default (`Durability::Sync`), `segment_bytes` 16 KiB",
    documented: "[durability.md](durability.md), section 4: what an open finds; section 7: what is not promised (a last group whose sectors vanish looks torn).",
    open,
    check: Some(("`annals verify`", check)),
};

pub(super) const DEGRADED: Kind = Kind {
    name: "annals/degraded",
    setting: "the same, opened after the damage with `OpenMode::Degraded`",
    documented: "`OpenMode::Degraded`: serves everything that is whole, answers `Damaged` for the rest.",
    open: |dir, create| open_in(dir, create, OpenMode::Degraded),
    check: None,
};

struct Annals(Log, OpenMode);

fn open(dir: &Path, create: bool) -> Result<Box<dyn Store>, String> {
    open_in(dir, create, OpenMode::ReadWrite)
}

fn open_in(dir: &Path, create: bool, mode: OpenMode) -> Result<Box<dyn Store>, String> {
    let mode = if create { OpenMode::ReadWrite } else { mode };
    let options = Options::new().create(create).mode(mode).segment_bytes(SEGMENT_BYTES);
    Ok(Box::new(Annals(Log::open(dir, options).map_err(text)?, mode)))
}

fn check(dir: &Path) -> Result<(), String> {
    let report = annals::verify(dir, |_| ()).map_err(text)?;
    if report.is_whole() {
        return Ok(());
    }
    let first = report.damages.iter().chain(&report.derived_damages).next();
    Err(first.map_or_else(|| format!("{:?}", report.verdict), ToString::to_string))
}

impl Annals {
    /// What a degraded open lists as lost.
    fn losses(&self) -> Report {
        match self.0.losses() {
            Ok(losses) if losses.is_empty() => Report::Nothing,
            Ok(losses) => Report::PerhapsLost(format!("{} losses, the first: {}", losses.len(), losses[0].what)),
            Err(error) => Report::PerhapsLost(error.to_string()),
        }
    }
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
            Verdict::Clean if self.1 == OpenMode::Degraded => self.losses(),
            Verdict::Clean => Report::Nothing,
            Verdict::TornTail => Report::Unfinished(what),
            _ => Report::PerhapsLost(what),
        }
    }

    fn close(self: Box<Self>) -> Result<(), String> {
        self.0.close().map_err(text)
    }
}
