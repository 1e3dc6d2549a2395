use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_executor::block_on;
use futures_util::future::try_join_all;
use sierradb::bucket::segment::CommittedEvents;
use sierradb::database::{Database, DatabaseBuilder, ExpectedVersion, NewEvent, Transaction};
use sierradb::id::{uuid_to_partition_hash, uuid_v7_with_partition_hash};
use sierradb::{IterDirection, StreamId};
use smallvec::SmallVec;
use uuid::Uuid;

use super::{Kind, OWN, QUEUE, Reader, Setup, Store, Way};
use crate::Res;
use crate::work::{Event, Keeps, Sink, Work, stream_name};

pub(super) const KIND: Kind = Kind {
    name: "sierradb",
    package: "sierradb",
    settings: "one partition a bucket, 4 buckets (the default on 2 cores; 1 behind a queue and where one thread appends); \"own\": `min_sync_bytes(1)`, so that \
               every write is followed by a sync; \"own, interval\": its default (a sync after 5 ms, 4 KiB or 50 events); compression off",
    keeps: "an order of all events of a partition; streams with versions, names and ids; no order over partitions",
    checks: "CRC-32 of every record",
    checked_reads: true,
    keeps_events: Keeps::All,
    ways: |work| match work {
        Work::Buffered => Err("every append waits for a sync"),
        work if work.threads() > 1 => Ok(&[OWN, INTERVAL, QUEUE]),
        _ => Ok(&[OWN]),
    },
    open,
};

const INTERVAL: Way = Way {
    name: "own, interval",
    queue: false,
};

/// Events that an iterator fetches at once; its own default is 50.
const READ_EVENTS: usize = 50;

struct Sierra {
    database: Database,
    partitions: u16,
}

fn open(dir: &Path, setup: &Setup) -> Res<Box<dyn Store>> {
    std::fs::create_dir_all(dir)?;
    let partitions = if setup.work.threads() > 1 && setup.way != QUEUE.name {
        4
    } else {
        1
    };
    let mut builder = DatabaseBuilder::new();
    builder
        .total_buckets(partitions)
        .bucket_ids_from_range(0..partitions)
        .compression(false);
    if setup.way != INTERVAL.name && !setup.filling {
        builder.min_sync_bytes(1);
    }
    Ok(Box::new(Sierra {
        database: builder.open(dir)?,
        partitions,
    }))
}

impl Sierra {
    fn partition(&self, stream: u32) -> u16 {
        (stream % u32::from(self.partitions)) as u16
    }
}

/// The key that all streams of a partition share.
fn key(partition: u16) -> Uuid {
    Uuid::from_u128(u128::from(partition) << 46)
}

impl Sierra {
    fn new_event(&self, event: &Event) -> Res<NewEvent> {
        Ok(NewEvent {
            event_id: uuid_v7_with_partition_hash(uuid_to_partition_hash(key(self.partition(event.stream)))),
            stream_id: StreamId::new(stream_name(event.stream))?,
            stream_version: ExpectedVersion::Any,
            event_name: "e".to_owned(),
            timestamp: SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64,
            metadata: Vec::new(),
            payload: event.payload.to_vec(),
        })
    }

    /// Each part to its partition, as a transaction.
    fn append_parts(&self, parts: impl Iterator<Item = (u16, SmallVec<[NewEvent; 4]>)>) -> Res<()> {
        let mut appends = Vec::new();
        for (partition, part) in parts.filter(|(_, part)| !part.is_empty()) {
            let transaction = Transaction::new(key(partition), partition, part)?;
            appends.push(self.database.append_events(transaction));
        }
        block_on(try_join_all(appends))?;
        Ok(())
    }
}

impl Store for Sierra {
    fn append(&self, events: &[Event]) -> Res<()> {
        let mut parts = vec![SmallVec::new(); usize::from(self.partitions)];
        for event in events {
            parts[usize::from(self.partition(event.stream))].push(self.new_event(event)?);
        }
        self.append_parts((0..).zip(parts))
    }

    /// It reads a whole transaction in order to read one event of it.
    fn fill(&self, events: &[Event]) -> Res<()> {
        let parts = events.iter().map(|event| {
            Ok((
                self.partition(event.stream),
                SmallVec::from_iter([self.new_event(event)?]),
            ))
        });
        self.append_parts(parts.collect::<Res<Vec<_>>>()?.into_iter())
    }

    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Borrowed(self)))
    }

    fn close(self: Box<Self>) -> Res<()> {
        block_on(self.database.shutdown());
        Ok(())
    }
}

struct Borrowed<'a>(&'a Sierra);

fn take(commits: Vec<CommittedEvents>, sink: &mut Sink) {
    let events = commits.into_iter().flatten();
    events.for_each(|event| sink.take(&event.payload));
}

impl Reader for Borrowed<'_> {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        for partition in 0..self.0.partitions {
            block_on(async {
                let database = &self.0.database;
                let mut events = database.read_partition(partition, 0, IterDirection::Forward).await?;
                while let Some(commits) = events.next_batch(READ_EVENTS).await? {
                    take(commits, sink);
                }
                Ok::<_, crate::Failure>(())
            })?;
        }
        Ok(())
    }

    fn load(&mut self, stream: u32, sink: &mut Sink) -> Res<()> {
        let id = StreamId::new(stream_name(stream))?;
        block_on(async {
            let database = &self.0.database;
            let partition = self.0.partition(stream);
            let mut events = database.read_stream(partition, id, 0, IterDirection::Forward).await?;
            while let Some(commits) = events.next_batch(READ_EVENTS).await? {
                take(commits, sink);
            }
            Ok(())
        })
    }
}
