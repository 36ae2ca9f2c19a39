#include "memory.hpp"
#include "registration.hpp"

namespace goskill {

void register_memory(pybind11::module_& module) {
    module.def("keep_freed_memory", &keep_freed_memory, pybind11::arg("keep"),
               "Whether the C library keeps large blocks that are freed for the next ones (glibc alone).");
}

}  // namespace goskill
