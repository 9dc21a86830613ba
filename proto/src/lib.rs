//! The contract: configuration, administration and sync messages, generated from the `.proto` files beside this crate.
//!
//! The Rust is committed, so that no build needs protoc; `tests/generated.rs` keeps it true to the `.proto` files.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::too_many_lines,
    clippy::allow_attributes,
    rustdoc::invalid_html_tags,
    reason = "generated"
)]

/// `ntonix.config`: what a configuration says.
pub mod config {
    /// Version 1.
    pub mod v1 {
        include!("generated/ntonix.config.v1.rs");
    }
}

/// `ntonix.admin`: what operators ask for.
pub mod admin {
    /// Version 1.
    pub mod v1 {
        include!("generated/ntonix.admin.v1.rs");
    }
}

/// `ntonix.sync`: how workers learn their configuration.
pub mod sync {
    /// Version 1.
    pub mod v1 {
        include!("generated/ntonix.sync.v1.rs");
    }
}

/// The descriptors of all files, as an encoded `FileDescriptorSet`: for reflection and for the file loader.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");
