//! What both planes stand on: tasks, drain, TLS, telemetry, probes.
