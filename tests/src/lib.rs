//! Harness, scripted mock backend, scenarios, load driver.

pub mod mock_llm;
