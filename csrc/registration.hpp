// One registration function per concept; nothing below this line of the house knows Python.
#pragma once

#include <pybind11/pybind11.h>

namespace goskill {

void register_data(pybind11::module_& module);
void register_samplers(pybind11::module_& module);
void register_ops(pybind11::module_& module);
void register_memory(pybind11::module_& module);

}  // namespace goskill
