//! Order in time.
