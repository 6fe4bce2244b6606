//! XFS as the kernel leaves it: fragmented, full, shared, and not unmounted.
