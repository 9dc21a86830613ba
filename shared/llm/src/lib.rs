//! What we speak: SSE, calls, usage and dialects. Pure: bytes in, bytes out.
