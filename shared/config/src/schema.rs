//! The descriptors of the configuration messages, which lead the reader, the writer and the comparison.

use std::sync::LazyLock;

use ntonix_proto::DESCRIPTORS;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

/// The message that a file holds.
pub(crate) const CONFIG: &str = "ntonix.config.v1.Config";
/// The message that is stored and pushed.
pub(crate) const RESOURCE: &str = "ntonix.config.v1.Resource";
/// Written as text, as in "30s".
pub(crate) const DURATION: &str = "google.protobuf.Duration";
/// Written as text, as in "2027-01-01T00:00:00Z".
pub(crate) const TIMESTAMP: &str = "google.protobuf.Timestamp";

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the descriptors are committed and read by every test of this crate")]
    DescriptorPool::decode(DESCRIPTORS).expect("the committed descriptors are good")
});

/// The descriptor of one of the messages named above.
pub(crate) fn descriptor(name: &str) -> MessageDescriptor {
    #[expect(clippy::expect_used, reason = "called with the constants above, each of which a test reads")]
    POOL.get_message_by_name(name).expect("the message is in the committed descriptors")
}

/// A message that can be walked, field by field.
pub(crate) fn reflect(message: &impl Message, name: &str) -> DynamicMessage {
    let bytes = message.encode_to_vec();
    #[expect(clippy::expect_used, reason = "prost wrote these bytes from the same schema")]
    DynamicMessage::decode(descriptor(name), bytes.as_slice()).expect("the bytes are what the schema says")
}
