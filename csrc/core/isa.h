// The instruction sets the CPU kernels are compiled for, and the one in use.
//
// Every kernel source is compiled once per instruction set, with TRANSMAMBA_ISA naming its namespace. The choice is
// made once, at load; tests and benchmarks can override it.
#pragma once
#include <string>
#include <vector>

#include "core/tensor.h"

namespace transmamba {

enum class Isa { baseline, v3, v4 };

Isa current_isa();
void use_isa(Isa isa);  // throws std::invalid_argument where this CPU or this build lacks it
std::vector<Isa> available_isas();
const char* name(Isa isa);

// Declares `void function(arguments)` once per compiled instruction set, and a dispatching `function` in namespace
// transmamba. Kernel sources define the one in their own namespace; double is compiled for the baseline alone.
#if defined(TRANSMAMBA_X86_LEVELS)
#define TRANSMAMBA_PER_ISA(function, Arguments)                        \
  namespace baseline {                                                 \
  void function(const Arguments&);                                     \
  }                                                                    \
  namespace v3 {                                                       \
  void function(const Arguments&);                                     \
  }                                                                    \
  namespace v4 {                                                       \
  void function(const Arguments&);                                     \
  }                                                                    \
  inline void function(const Arguments& a) {                           \
    switch (a.dtype() == DType::f64 ? Isa::baseline : current_isa()) { \
      case Isa::v4: return v4::function(a);                            \
      case Isa::v3: return v3::function(a);                            \
      default: return baseline::function(a);                           \
    }                                                                  \
  }
#else
#define TRANSMAMBA_PER_ISA(function, Arguments) \
  namespace baseline {                          \
  void function(const Arguments&);              \
  }                                             \
  inline void function(const Arguments& a) { baseline::function(a); }
#endif

}  // namespace transmamba
