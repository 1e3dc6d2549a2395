use std::path::Path;

use commitlog::message::MessageSet;
use commitlog::{CommitLog, LogOptions, ReadLimit};

use super::{Kind, Store, read_on, text};
use crate::work::SEGMENT_BYTES;

pub(super) const KIND: Kind = Kind {
    name: "commitlog",
    setting: "`flush` after every append, all that the crate has (it calls no `fsync`); segments of 16 KiB",
    documented: "`flush`: \"forces a flush of the log\"; it ends in `File::flush`, which does nothing.",
    open,
    check: None,
};

struct Commit(CommitLog);

fn open(dir: &Path, _: bool) -> Result<Box<dyn Store>, String> {
    let mut options = LogOptions::new(dir);
    options.segment_max_bytes(usize::try_from(SEGMENT_BYTES).map_err(text)?);
    Ok(Box::new(Commit(CommitLog::new(options).map_err(text)?)))
}

impl Store for Commit {
    fn append(&mut self, _: u64, data: &[u8]) -> Result<(), String> {
        self.0.append_msg(data).map_err(text)?;
        self.0.flush().map_err(text)
    }

    fn read(&mut self, event: &mut dyn FnMut(&[u8]), error: &mut dyn FnMut(String)) {
        let end = self.0.next_offset();
        let read_after = |after: u64, each: &mut dyn FnMut(u64, &[u8])| {
            let mut offset = after;
            while offset < end {
                let messages = self.0.read(offset, ReadLimit::max_bytes(8192)).map_err(text)?;
                let before = offset;
                for message in messages.iter() {
                    offset = message.offset() + 1;
                    each(offset, message.payload());
                }
                // Nothing, or offsets that lead back, and no error.
                if offset <= before {
                    break;
                }
            }
            Ok(())
        };
        read_on(read_after, event, error);
    }

    fn close(mut self: Box<Self>) -> Result<(), String> {
        self.0.flush().map_err(text)
    }
}
