#include <pybind11/pybind11.h>

#include "registration.hpp"

PYBIND11_MODULE(_core, module) {
    module.doc() = "goskill's native core: memory-mapped episode store, samplers, CPU operations, memory.";
    goskill::register_data(module);
    goskill::register_ops(module);
    goskill::register_memory(module);
}
