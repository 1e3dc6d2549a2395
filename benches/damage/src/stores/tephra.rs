use std::path::Path;

use tephra::{
    Event, EventType, Position, Query, SegmentConfig, SegmentSet, Tag, Tags, WriteCoordinator, WriteHandle,
    WriterConfig,
};

use super::{Kind, Store, read_on, text};
use crate::work::{SEGMENT_BYTES, stream};

pub(super) const KIND: Kind = Kind {
    name: "tephra",
    setting: "default (every append is synced), segments of 16 KiB",
    documented: "`SegmentSet::open`: rolls back an incomplete trailing batch; any gap, overlap or corruption is a hard error.",
    open,
    check: None,
};

struct Tephra {
    coordinator: WriteCoordinator,
    handle: WriteHandle,
}

fn open(dir: &Path, _: bool) -> Result<Box<dyn Store>, String> {
    let set = SegmentSet::open(dir, SegmentConfig::new(usize::try_from(SEGMENT_BYTES).map_err(text)?)).map_err(text)?;
    // A batch must fit a segment.
    let config = WriterConfig {
        max_batch_bytes: set.segment_capacity() / 2,
        ..WriterConfig::default()
    };
    let (coordinator, handle) = WriteCoordinator::start(set, config).map_err(text)?;
    Ok(Box::new(Tephra { coordinator, handle }))
}

impl Store for Tephra {
    fn append(&mut self, n: u64, data: &[u8]) -> Result<(), String> {
        let tag = Tag::new(format!("stream:{}", stream(n))).map_err(text)?;
        let tags = Tags::new([tag]).map_err(text)?;
        let event = Event::new(&EventType::new("work").map_err(text)?, &tags, data).map_err(text)?;
        self.handle.append(vec![event], None).map(drop).map_err(text)
    }

    fn read(&mut self, event: &mut dyn FnMut(&[u8]), error: &mut dyn FnMut(String)) {
        let read_after = |after: u64, each: &mut dyn FnMut(u64, &[u8])| {
            let mut reads = self.handle.read(&Query::all(), Position::new(after), None);
            while let Some(event) = reads.next() {
                let event = event.map_err(text)?;
                each(event.position.get(), event.event.data());
            }
            Ok(())
        };
        read_on(read_after, event, error);
    }

    fn close(self: Box<Self>) -> Result<(), String> {
        drop(self.handle);
        drop(self.coordinator.shutdown());
        Ok(())
    }
}
