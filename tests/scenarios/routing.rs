//! Which pool answers for which model, and by which name its backends are asked.

use ntonix_tests::client::{Ask, CHAT};
use ntonix_tests::mock_llm::{MockLlm, Script};
use ntonix_tests::worker::TestWorker;
use serde_json::{Value, json};

use crate::stage::{assert_fine, assert_refused, attempts, backend_is, connect};

/// Pools `a`, `b` and `c` with one backend each, and these routes.
async fn three(routes: &str) -> ([MockLlm; 3], TestWorker) {
    let mocks = [(); 3].map(|()| MockLlm::start().unwrap());
    let pools = ["a", "b", "c"].iter().zip(&mocks);
    let pools =
        pools.map(|(name, mock)| format!("{{ name: {name}, backends: [{{ name: x, url: \"{}\" }}] }}", mock.url()));
    let config = format!("pools: [{}]\nroutes:\n{routes}", pools.collect::<Vec<_>>().join(", "));
    let worker = TestWorker::start(&config).await.unwrap();
    (mocks, worker)
}

fn asks_for(model: &str) -> Ask {
    Ask::chat_with(json!({ "model": model }))
}

/// The models that a mock was asked for.
fn asked_models(mock: &MockLlm) -> Vec<String> {
    let calls = mock.requests().into_iter().filter(|request| request.path == CHAT);
    calls
        .map(|call| serde_json::from_slice::<Value>(&call.body).unwrap()["model"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn exact_names_come_before_globs_and_the_first_glob_wins() {
    let routes = "- { model: \"llama-*\", targets: [{ pool: a }] }\n\
                  - { model: \"*\", targets: [{ pool: b }] }\n\
                  - { model: llama-3, targets: [{ pool: c }] }\n";
    let (mocks, worker) = three(routes).await;
    for mock in &mocks {
        mock.list_models(&["llama-3", "llama-4", "qwen"]);
    }
    let mut connection = connect(&worker).await;
    for model in ["llama-3", "llama-4", "qwen"] {
        assert_fine(&connection.ask(asks_for(model)).await.unwrap());
    }
    assert_eq!(mocks.each_ref().map(asked_models), [vec!["llama-4"], vec!["qwen"], vec!["llama-3"]]);
}

#[tokio::test]
async fn an_alias_means_the_model_and_the_backend_sees_its_own_name() {
    let routes = "- { model: big, aliases: [large, gpt-4], targets: [{ pool: a, model: \"meta/Llama \\\"3\\\"\" }] }\n\
                  - { model: small, aliases: [tiny], targets: [{ pool: b }] }\n\
                  - { model: \"any-*\", targets: [{ pool: c, model: one }] }\n";
    let (mocks, worker) = three(routes).await;
    let mut connection = connect(&worker).await;
    for model in ["big", "large", "gpt-4", "small", "tiny", "any-thing"] {
        assert_fine(&connection.ask(asks_for(model)).await.unwrap());
    }
    let asked = mocks.each_ref().map(asked_models);
    assert_eq!(asked, [vec!["meta/Llama \"3\""; 3], vec!["small"; 2], vec!["one"]]);
}

#[tokio::test]
async fn only_the_name_of_the_model_is_written_anew() {
    let routes = "- { model: big, targets: [{ pool: a, model: other }] }\n";
    let (mocks, worker) = three(routes).await;
    let body = r#"{ "messages":[{"role":"user","content":"model"}],  "model" :"big" ,"x":{"model":"big"} }"#;
    assert_fine(&connect(&worker).await.ask(Ask::post(CHAT, body)).await.unwrap());
    let asked = mocks[0].requests().into_iter().find(|request| request.path == CHAT).unwrap();
    assert_eq!(asked.body, body.replacen("\"model\" :\"big\"", "\"model\" :\"other\"", 1));
}

#[tokio::test]
async fn targets_share_the_traffic_by_weight() {
    let routes = "- { model: m, targets: [{ pool: a, weight: 3 }, { pool: b, weight: 1 }, { pool: c, weight: 0 }] }\n";
    let (mocks, worker) = three(routes).await;
    let mut connection = connect(&worker).await;
    for _ in 0..200 {
        assert_fine(&connection.ask(asks_for("m")).await.unwrap());
    }
    let [a, b, c] = mocks.each_ref().map(|mock| mock.counts().attempts);
    // Drawn at random: 150 and 50, and beyond five standard deviations only once in a million runs.
    assert!((119..=181).contains(&a) && a + b == 200 && c == 0, "{a} {b} {c}");
}

#[tokio::test]
async fn the_other_targets_and_then_the_fallback_answer_when_one_is_down() {
    let routes = "- { model: m, targets: [{ pool: a }, { pool: b }], fallback: [{ pool: c, model: spare }] }\n";
    let (mocks, worker) = three(routes).await;
    let mut connection = connect(&worker).await;
    mocks[0].always(Script::status(500, "broken"));
    for _ in 0..5 {
        assert_fine(&connection.ask(asks_for("m")).await.unwrap());
    }
    assert_eq!(mocks[2].counts().attempts, 0, "a fallback is for when no target can");
    mocks[1].always(Script::no_reply());
    for _ in 0..5 {
        assert_fine(&connection.ask(asks_for("m")).await.unwrap());
    }
    assert_eq!(asked_models(&mocks[2]), ["spare"; 5]);
}

#[tokio::test]
async fn behind_a_glob_only_backends_that_have_the_model_are_asked() {
    let mocks = [(); 2].map(|()| MockLlm::start().unwrap());
    mocks[0].list_models(&["llama-3"]);
    mocks[1].list_models(&["qwen-3"]);
    let backends = mocks.iter().enumerate();
    let backends: Vec<_> =
        backends.map(|(index, mock)| format!("{{ name: gpu-{index}, url: \"{}\" }}", mock.url())).collect();
    let config = format!(
        "pools: [{{ name: llama, backends: [{}], health: {{ every: 100ms }} }}]\n\
         routes: [{{ model: \"*\", targets: [{{ pool: llama }}] }}]\n",
        backends.join(", ")
    );
    let worker = TestWorker::start(&config).await.unwrap();
    for mock in &mocks {
        mock.until(|counts| counts.requests >= 4).await;
    }
    backend_is(&worker, "gpu-1", "healthy").await;
    let mut connection = connect(&worker).await;
    for _ in 0..5 {
        assert_fine(&connection.ask(asks_for("qwen-3")).await.unwrap());
    }
    assert_eq!(attempts(&[&mocks[0], &mocks[1]]), [0, 5]);
    assert_refused(&connection.ask(asks_for("gpt-9")).await.unwrap(), 404, "model_not_found");
}
