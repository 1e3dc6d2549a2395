//! How to test your own code, built on `annals`, on a disk that loses everything it may lose.
//!
//! The app is a till: each sale is an event, and the total is kept in a file of its own, so that it need not be added up again. Its
//! promise: whatever `sell` has returned `Ok` for is in the total after any power cut, and nothing is in it twice.
//!
//! `cargo run --example own_crash_test --features sim`

use std::io;
use std::sync::{Arc, Mutex};

use annals::sim::{CrashMode, Dir, Environment, OpenMode, SimDisk};
use annals::{ExpectedVersion, Log, NewEvent, Options, Position};

struct Till {
    log: Log,
    root: Arc<dyn Dir>,
}

impl Till {
    /// All access to the disk goes through `annals::storage`: the real disk in production, a simulated one here.
    fn open(root: Arc<dyn Dir>) -> annals::Result<Self> {
        let options = Options::new().segment_bytes(64 << 10);
        let folder = root.subdir("log", true).expect("a folder");
        // The name of the folder is the app's business, and durable only after this.
        root.sync().expect("a disk that works");
        let log = Log::open_in(folder, options, Environment::deterministic(1))?;
        Ok(Self { log, root })
    }

    fn sell(&self, cents: u64) -> annals::Result<()> {
        let data = cents.to_string();
        self.log
            .append("till", ExpectedVersion::Any, &[NewEvent::new("Sold", &data)])
            .map(drop)
    }

    /// Notes the total and the position it is of: written aside, synced, renamed. (Leave the sync out and see.)
    fn note_total(&self) -> io::Result<()> {
        let (total, position) = self.total().map_err(io::Error::other)?;
        if let Err(e) = self.root.remove("total.tmp")
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(e);
        }
        let file = self.root.open("total.tmp", OpenMode::CreateNew)?;
        file.write_at(format!("{total} {}", position.get()).as_bytes(), 0)?;
        file.sync_data()?;
        self.root.rename("total.tmp", "total")?;
        self.root.sync()
    }

    fn total(&self) -> Result<(u64, Position), Box<dyn std::error::Error + Send + Sync>> {
        let (mut total, mut after) = (0, Position::START);
        if let Ok(file) = self.root.open("total", OpenMode::Read) {
            let mut bytes = [0; 64];
            let len = file.read_at(&mut bytes, 0)?;
            let (noted, position) = std::str::from_utf8(&bytes[..len])?
                .split_once(' ')
                .ok_or("a torn total")?;
            (total, after) = (noted.parse()?, Position::new(position.parse()?));
        }
        for event in self
            .log
            .subscribe(after)?
            .take(usize::try_from(self.log.last_position().get() - after.get())?)
        {
            let event = event?;
            total += std::str::from_utf8(event.data())?.parse::<u64>()?;
            after = event.position();
        }
        Ok((total, after))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut states = 0;
    for seed in 1..=20 {
        let disk = SimDisk::new(seed);
        // What has been promised so far, and what is being sold at this moment: (cents, cents).
        let promised = Arc::new(Mutex::new((0, 0)));
        let cuts = Arc::new(Mutex::new(Vec::new()));
        let (noted, now) = (Arc::clone(&cuts), Arc::clone(&promised));
        // At every operation of the disk, one power cut; the work itself goes on.
        disk.watch(move |cut| {
            noted
                .lock()
                .expect("whole")
                .push((cut.clone(), *now.lock().expect("whole")))
        });
        let till = Till::open(disk.root())?;
        for cents in (1..=12).map(|n| n * seed) {
            promised.lock().expect("whole").1 = cents;
            till.sell(cents)?;
            *promised.lock().expect("whole") = (till.total()?.0, 0);
            if cents % 4 == 0 {
                till.note_total()?;
            }
        }
        disk.unwatch();
        for (cut, (sold, selling)) in &*cuts.lock().expect("whole") {
            for mode in CrashMode::ALL {
                let found = cut.crash_with(mode);
                let (total, _) = Till::open(found.root())?
                    .total()
                    .map_err(|e| format!("seed {seed}, {mode:?}: {e}"))?;
                assert!(
                    total == *sold || total == sold + selling,
                    "seed {seed}, {mode:?}: {total}, sold {sold}"
                );
                states += 1;
            }
        }
    }
    eprintln!("{states} crash states, and nothing promised was lost");
    Ok(())
}
