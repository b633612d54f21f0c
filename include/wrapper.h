/* What bindgen reads; build.rs says which of its items become Rust. */
#include <slurm/spank.h>
