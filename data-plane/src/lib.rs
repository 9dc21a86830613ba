//! A worker: takes client traffic, picks a backend, relays the stream.
