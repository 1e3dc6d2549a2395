//! An aggregate: state from a snapshot and the events after it, decisions checked by version.
//!
//! `cargo run --example account -- DIR`

use annals::{Error, Log, NewEvent, Options, Version};

/// The state of an account, kept in snapshots.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Account {
    balance: i64,
}

impl Account {
    fn apply(&mut self, event_type: &str, data: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
        let amount: i64 = std::str::from_utf8(data)?.parse()?;
        match event_type {
            "Deposited" => self.balance += amount,
            "Withdrawn" => self.balance -= amount,
            // An event of a kind that came later changes nothing this program knows of.
            _ => {}
        }
        Ok(())
    }
}

fn load(log: &Log, stream: &str) -> Result<(Account, Version), Box<dyn std::error::Error>> {
    let (saved, events) = log.load_state::<Account>(stream)?;
    let (mut account, mut version) = saved.unwrap_or_default();
    for event in events {
        let event = event?;
        account.apply(event.event_type(), event.data())?;
        version = event.version();
    }
    Ok((account, version))
}

/// Withdraws if there is enough; decides anew if somebody else was faster.
fn withdraw(log: &Log, stream: &str, amount: i64) -> Result<bool, Box<dyn std::error::Error>> {
    loop {
        let (account, version) = load(log, stream)?;
        if account.balance < amount {
            return Ok(false);
        }
        let data = amount.to_string();
        match log.append(stream, version, &[NewEvent::new("Withdrawn", &data)]) {
            Ok(_) => return Ok(true),
            Err(Error::WrongExpectedVersion { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "target/example-account".into());
    let log = Log::open(dir, Options::new())?;
    log.append(
        "account-1",
        load(&log, "account-1")?.1,
        &[NewEvent::new("Deposited", "100")],
    )?;

    let done = std::thread::scope(|scope| {
        let tills: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..10)
                        .filter(|_| withdraw(&log, "account-1", 7).is_ok_and(|done| done))
                        .count()
                })
            })
            .collect();
        tills
            .into_iter()
            .map(|till| till.join().unwrap_or_default())
            .sum::<usize>()
    });
    let (account, version) = load(&log, "account-1")?;
    eprintln!(
        "{done} of 40 withdrawals; the balance is {}, at version {version}",
        account.balance
    );
    assert!(account.balance >= 0);

    log.save_state("account-1", version, &account)?;
    log.close()?;
    Ok(())
}
