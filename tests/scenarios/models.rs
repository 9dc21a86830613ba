//! The list of models: what the caller may ask for.

use ntonix_config::KeyDigest;
use ntonix_tests::client::{Answer, Ask, MODELS};
use ntonix_tests::mock_llm::{MockLlm, Script};
use ntonix_tests::wait::eventually;
use ntonix_tests::worker::TestWorker;

use crate::stage::{Stage, assert_refused, connect};

fn ids(answer: &Answer) -> Vec<String> {
    let list = answer.json();
    assert_eq!(list["object"], "list");
    let entries = list["data"].as_array().unwrap();
    for entry in entries {
        assert_eq!((&entry["object"], &entry["owned_by"]), (&"model".into(), &"ntonix".into()));
        assert!(entry["created"].as_u64().unwrap() > 1_600_000_000);
    }
    entries.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn it_has_the_names_and_aliases_of_the_routes_in_their_order() {
    let stage = Stage::with("", "aliases: [b, a]", "").await;
    let answer = stage.connect().await.ask(Ask::get(MODELS)).await.unwrap();
    assert_eq!(ids(&answer), ["mock-model", "b", "a"]);
}

async fn with_glob(glob: &str, mock: &MockLlm, rest: &str) -> TestWorker {
    let config = format!(
        "pools: [{{ name: p, backends: [{{ name: b, url: \"{}\" }}], health: {{ every: 100ms }} }}]\n\
         routes: [{{ model: fixed, targets: [{{ pool: p }}] }}, {{ model: \"{glob}\", targets: [{{ pool: p }}] }}]\n{rest}",
        mock.url()
    );
    TestWorker::start(&config).await.unwrap()
}

#[tokio::test]
async fn for_a_glob_it_has_what_the_backends_report_and_follows_them() {
    let mock = MockLlm::start().unwrap();
    mock.list_models(&["meta-llama/Llama-3", "meta-llama/Llama-4", "qwen"]);
    let worker = with_glob("meta-llama/*", &mock, "").await;
    let mut connection = connect(&worker).await;
    let mut listed = async |wanted: &[&str]| {
        let look = async || ids(&connection.ask(Ask::get(MODELS)).await.unwrap()) == wanted;
        eventually("the list is as the backend says", look).await.unwrap();
    };
    listed(&["fixed", "meta-llama/Llama-3", "meta-llama/Llama-4"]).await;
    mock.list_models(&["meta-llama/Llama-5"]);
    listed(&["fixed", "meta-llama/Llama-5"]).await;
    // A backend whose list is nonsense has what it had.
    mock.for_path(MODELS, Script::html());
    listed(&["fixed", "meta-llama/Llama-5"]).await;
}

#[tokio::test]
async fn one_entry_is_found_by_its_id_with_slashes_encoded_or_not() {
    let mock = MockLlm::start().unwrap();
    mock.list_models(&["meta-llama/Llama-3:70b"]);
    let worker = with_glob("*", &mock, "").await;
    let mut connection = connect(&worker).await;
    let listed = async || ids(&connection.ask(Ask::get(MODELS)).await.unwrap()).len() == 2;
    eventually("the backend has said what it has", listed).await.unwrap();
    for path in ["/v1/models/meta-llama/Llama-3:70b", "/v1/models/meta-llama%2FLlama-3%3A70b"] {
        let answer = connection.ask(Ask::get(path)).await.unwrap();
        assert_eq!((answer.status(), &answer.json()["id"]), (200, &"meta-llama/Llama-3:70b".into()));
    }
    for path in ["/v1/models/meta-llama", "/v1/models/", "/v1/models/%00"] {
        assert_refused(&connection.ask(Ask::get(path)).await.unwrap(), 404, "model_not_found");
    }
}

#[tokio::test]
async fn a_tenant_sees_what_it_may_use() {
    let mock = MockLlm::start().unwrap();
    mock.list_models(&["tiny-1", "huge-1"]);
    let digest = KeyDigest::of(b"ntx_guest");
    let rest = format!(
        "tenants: [{{ name: guests, models: [\"tiny-*\"] }}]\n\
         keys: [{{ name: guest, tenant: guests, digest: \"{digest}\" }}]\n"
    );
    let worker = with_glob("*", &mock, &rest).await;
    let mut connection = connect(&worker).await;
    let asks = |path: &str| Ask::get(path).key("ntx_guest");
    let listed = async || ids(&connection.ask(asks(MODELS)).await.unwrap()) == ["tiny-1"];
    eventually("only what is allowed is listed", listed).await.unwrap();
    assert_refused(&connection.ask(asks("/v1/models/huge-1")).await.unwrap(), 404, "model_not_found");
    assert_refused(&connection.ask(asks("/v1/models/fixed")).await.unwrap(), 404, "model_not_found");
    assert_eq!(connection.ask(asks("/v1/models/tiny-1")).await.unwrap().status(), 200);
}
