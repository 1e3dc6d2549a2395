//! The law of NDJSON import, over the command's own module; shared by the fuzz target and `tests/fuzz_seeds.rs`.

#[allow(dead_code, reason = "the command uses more of it")]
#[path = "../../src/bin/annals/ndjson.rs"]
mod ndjson;

use annals::NewEvent;

/// `line` is parsed; if it is accepted, and the log would take the event, it is exported and parsed again.
pub(crate) fn ndjson_import(line: &[u8]) {
    let Ok(incoming) = ndjson::parse(line) else { return };
    let tags: Vec<&str> = incoming.tags.iter().map(|tag| &**tag).collect();
    let event = NewEvent {
        id: incoming.id,
        event_type: &incoming.event_type,
        tags: &tags,
        metadata: &incoming.metadata,
        data: &incoming.data,
    };
    annals::fuzzing::with_event(&incoming.stream, &event, |stored| {
        let mut exported = Vec::new();
        ndjson::write(&mut exported, stored).expect("every event can be exported");
        assert_eq!(exported.last(), Some(&b'\n'));
        assert_eq!(
            exported.iter().filter(|&&byte| byte == b'\n').count(),
            1,
            "an event is a line"
        );
        let again = ndjson::parse(&exported).expect("what was exported can be imported");
        assert_eq!(again.stream, incoming.stream);
        assert_eq!(again.event_type, incoming.event_type);
        assert_eq!(again.id, incoming.id);
        assert_eq!(again.tags, incoming.tags);
        assert_eq!(again.metadata, incoming.metadata);
        assert_eq!(again.data, incoming.data);
    });
}
