#include "registration.hpp"

namespace goskill {

void register_data(pybind11::module_& module) { (void)module; }

}  // namespace goskill
