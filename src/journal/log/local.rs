//! Whether a file system is local. Knows no log.

use std::path::Path;

/// File systems that are served by another machine or another program, so that an append has no bound.
#[cfg(target_os = "linux")]
const REMOTE: [u64; 14] = [
    0x6969,      // NFS
    0x517B,      // SMB
    0xFF53_4D42, // CIFS
    0xFE53_4D42, // SMB 2
    0x6573_5546, // FUSE
    0x0102_1997, // 9P
    0x5346_414F, // AFS
    0x7375_7245, // Coda
    0x00C3_6400, // Ceph
    0x0BD0_0BD0, // Lustre
    0x4750_4653, // GPFS
    0x0116_1970, // GFS2
    0x7461_636F, // OCFS2
    0x786F_4256, // VirtualBox
];

/// Whether a journal is on a local disk, as far as its file system tells.
#[cfg(target_os = "linux")]
pub(in crate::journal) fn is_local(journal: &Path) -> bool {
    let directory = match journal.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    rustix::fs::statfs(directory).is_ok_and(|found| {
        // The type's width differs from platform to platform.
        let kind = u64::try_from(found.f_type).unwrap_or_default() & 0xFFFF_FFFF;
        !REMOTE.contains(&kind)
    })
}

/// Elsewhere it is not known whether a journal is on a local disk: callers never append themselves.
#[cfg(not(target_os = "linux"))]
pub(in crate::journal) fn is_local(_journal: &Path) -> bool {
    false
}
