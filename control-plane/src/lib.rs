//! The control plane: numbered revisions over gRPC, pushed to workers.
