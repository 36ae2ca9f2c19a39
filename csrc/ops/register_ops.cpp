#include "registration.hpp"

namespace goskill {

void register_ops(pybind11::module_& module) { (void)module; }

}  // namespace goskill
