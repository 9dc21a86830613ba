//! What the gateway does, seen from outside: real sockets, a scripted backend, no sleeps.
#![cfg(test)]

mod stage;

mod unary;
mod sse;
mod faults;
mod requests;
