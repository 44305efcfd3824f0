//! Many sessions in an image: written in bounded steps, and the same bytes as in one go.

mod leader;

use pigeonhole_core::base::id::SessionId;
use pigeonhole_core::base::limits::SNAPSHOT_CHUNK_BYTES;
use pigeonhole_core::state::State;
use pigeonhole_core::state::image::ImageReader;
use pigeonhole_core::state::session_prep::SessionRequest;

use leader::Leader;

const COUNT: u64 = 50_000;

/// A leader with many sessions whose ids come in no order.
fn crowded() -> Leader {
    let mut leader = Leader::new();
    for number in 0..COUNT {
        // 7919 and the count have no common factor.
        let session = SessionId(1 << 56 | (number * 7919 % COUNT));
        let request = SessionRequest::Create { session, password: [7; 16], timeout_ms: 4000 };
        leader.session(&request).expect("the id is new");
        if number % 1000 == 0 {
            leader.apply_all();
        }
    }
    leader.apply_all();
    leader
}

#[test]
fn many_sessions_are_written_in_bounded_steps() {
    let leader = crowded();
    let mut writer = leader.state.freeze().into_image();
    let mut reader = ImageReader::new(0);
    let mut calls_without_a_chunk = 0;
    loop {
        let mut chunk = Vec::new();
        let goes_on = writer.next_chunk(&mut chunk);
        assert!(chunk.len() <= SNAPSHOT_CHUNK_BYTES);
        calls_without_a_chunk += u32::from(chunk.is_empty());
        reader.on_chunk(&chunk).unwrap();
        if !goes_on {
            break;
        }
    }
    assert!(calls_without_a_chunk >= 4, "encoding must be spread: {calls_without_a_chunk}");
    let image = reader.finish().unwrap();
    let mut at_once = Vec::new();
    leader.state.freeze_tables().encode(&mut at_once);
    assert_eq!(image.sessions, at_once);
    let restored = State::from_image(image, leader.state.map()).unwrap();
    let sessions = restored.sessions();
    let ids: Vec<SessionId> = sessions.homes().map(|(session, _)| session).collect();
    assert_eq!(ids, (0..COUNT).map(|number| SessionId(1 << 56 | number)).collect::<Vec<_>>());
    assert!(ids.iter().all(|&id| sessions.home(id) == leader.state.sessions().home(id)));
}
