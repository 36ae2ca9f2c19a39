// What the C library does with memory that is freed.
#pragma once

namespace goskill {

// Whether large blocks that are freed stay with the process for the next one, or go back to the system at
// once, as glibc does by itself with those above 32 MiB. Does nothing without glibc.
void keep_freed_memory(bool keep);

}  // namespace goskill
