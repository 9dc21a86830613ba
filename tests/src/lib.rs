//! Harness, scripted mock backend, scenarios, load driver.
