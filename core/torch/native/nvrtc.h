// CUDA kernels compiled at run time and launched through the driver. Both libraries are found when they are first needed, so that
// nothing here needs CUDA's headers, and a machine without CUDA only gets a reason.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace yolo::nvrtc {

struct Compiled {
    // What the driver loads: machine code, or PTX for a card that the compiler does not know.
    std::string image;
    // What the compiler says: registers, spills.
    std::string log;
};

// Compiles CUDA C++ for a compute capability (90 for 9.0), with more options such as `-DACT=1`. Throws std::runtime_error.
Compiled compile(const std::string &source, int capability, std::vector<std::string> options);

// Compute capability and number of multiprocessors of a CUDA device. Throws std::runtime_error where there is none.
struct Card {
    int capability = 0;
    int processors = 0;
};
Card card(int device);

// Kernels that are loaded on one device.
class Module {
  public:
    // The device must be initialised by libtorch. Throws std::runtime_error.
    Module(int device, const std::string &image);
    Module(const Module &) = delete;
    Module &operator=(const Module &) = delete;

    // Starts a kernel on libtorch's current stream of the device, which must be the current device.
    void launch(const char *kernel, unsigned grid_x, unsigned grid_y, unsigned threads, void **arguments);

  private:
    int device_;
    void *context_ = nullptr;
    void *module_ = nullptr;
    std::map<std::string, void *> functions_;
};

} // namespace yolo::nvrtc
