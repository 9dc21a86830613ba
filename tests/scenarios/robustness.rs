//! Whatever bytes come: no panic, no wrong end, and the worker serves on.

use bytes::Bytes;
use ntonix_config::Source;
use ntonix_llm::call::{Call, Op};
use ntonix_llm::reply;
use ntonix_llm::sse::{Decoder, Splitter};
use ntonix_llm::watch::{Ending, Watch};
use ntonix_tests::client::{Ask, CHAT, RawConnection};
use ntonix_tests::mock_llm::Script;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::stage::{Stage, assert_fine};

/// What the bytes of a test are made of: text that means something, mutilated, repeated, and noise between.
const PIECES: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "\\",
    "\\u12",
    "\n",
    "\r",
    "data: ",
    "event: error\n",
    ": \n\n",
    "[DONE]",
    "\"model\"",
    "\"stream\":true",
    "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]",
    "\"usage\":null",
    "\"stream_options\":{\"include_usage\":false}",
    "1e999",
    "\u{feff}",
    "\"error\":",
    "pools:\n  - name: ",
];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(PIECES.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..8),
    ];
    vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// A request body, whatever the bytes are. What can be read can be written anew and read again.
fn feed_call(bytes: &[u8]) {
    for op in [Op::ChatCompletions, Op::Completions, Op::Embeddings] {
        if let Ok(call) = Call::parse(op, Bytes::copy_from_slice(bytes)) {
            let body = call.body_for(Some("other"), op.streams());
            assert_eq!(Call::parse(op, body).unwrap().model, "other");
        }
    }
}

/// A backend's stream, whatever the bytes are, in pieces of `size`. It ends in exactly one way.
fn feed_stream(bytes: &[u8], size: usize) -> Ending {
    let body = Bytes::from_static(br#"{"model":"m","stream":true}"#);
    let call = Call::parse(Op::ChatCompletions, body).unwrap();
    let (mut splitter, mut watch) = (Splitter::new(1024), Watch::new(&call, true));
    for piece in bytes.chunks(size) {
        if splitter.scan_for(Bytes::copy_from_slice(piece), &mut watch).is_err() {
            break;
        }
    }
    watch.ending()
}

proptest! {
    #[test]
    fn no_body_makes_the_reader_panic(bytes in bytes()) {
        feed_call(&bytes);
    }

    #[test]
    fn no_stream_makes_the_relay_panic_and_its_end_does_not_depend_on_how_it_is_split(
        bytes in bytes(), size in 1_usize..64,
    ) {
        let whole = feed_stream(&bytes, bytes.len().max(1));
        prop_assert_eq!(format!("{:?}", feed_stream(&bytes, size)), format!("{whole:?}"));
    }

    #[test]
    fn no_answer_makes_the_readers_panic(bytes in bytes()) {
        let _ = (reply::usage_of(&bytes), reply::backend_error(&bytes), reply::model_ids(&bytes));
        let mut decoder = Decoder::new(256);
        let _ = decoder.feed(&bytes);
        decoder.for_each(drop);
    }

    #[test]
    fn no_file_makes_the_configuration_panic(bytes in bytes()) {
        if let Ok(source) = Source::read(&String::from_utf8_lossy(&bytes), std::path::Path::new("/")) {
            let _ = ntonix_config::validate(&source.draft);
        }
    }
}

#[tokio::test]
async fn a_worker_survives_noise_from_clients_and_from_backends() {
    let stage = Stage::with("breaker: { failures: 1000 }", "retries: 0", "").await;
    let mut noise = fastrand::Rng::with_seed(7);
    for round in 0..60 {
        let bytes: Vec<u8> =
            (0..noise.usize(0..40)).flat_map(|_| PIECES[noise.usize(0..PIECES.len())].bytes()).collect();
        let mut connection = stage.connect().await;
        let answer = connection.ask(Ask::post(CHAT, bytes.clone())).await.unwrap();
        assert_eq!(answer.status(), 400, "round {round}: {}", answer.text());

        stage.mock.next(Script::raw(bytes.chunks(7)));
        let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
        let ends_once = transcript.is_done() || !transcript.code().is_empty() || transcript.status() != 200;
        assert!(ends_once, "round {round}: {}", transcript.text());

        let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
        raw.send(&bytes).await.unwrap();
        raw.finish().await.unwrap();
        raw.read_to_end().await.unwrap();
    }
    assert_eq!(stage.worker.metric("ntonix_panics_total").await.unwrap(), 0.0);
    assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());
}
