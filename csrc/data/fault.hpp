#pragma once

#include <stdexcept>

namespace goskill {

// Something on disk is missing, damaged or does not fit. Python sees goskill.errors.StoreError.
class StoreFault : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// The caller asked for something impossible. Python sees goskill.errors.InputError.
class InputFault : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

}  // namespace goskill
