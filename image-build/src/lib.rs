//! Makes the bootable stick image out of locked Debian packages.
