// SPDX-License-Identifier: Apache-2.0
// Loads a package that helion_compile.export wrote, and calls it; nothing here is Python.
//
//     main model.pt2 1 16        token ids of shape [1, 16], all zero
//
// CMakeLists.txt beside it builds it against the torch that the package was made with.

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <vector>

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

int main(int count, char** arguments) {
  if (count < 2) {
    std::cerr << "usage: " << arguments[0] << " PACKAGE SIZE…\n";
    return 2;
  }
  std::vector<int64_t> sizes;
  for (int index = 2; index < count; ++index) {
    sizes.push_back(std::atoll(arguments[index]));
  }
  c10::InferenceMode mode;
  torch::inductor::AOTIModelPackageLoader loader(arguments[1]);
  const auto device = torch::cuda::is_available() ? torch::kCUDA : torch::kCPU;
  const auto ids = torch::zeros(sizes, torch::dtype(torch::kInt64).device(device));

  std::vector<at::Tensor> results = loader.run({ids});
  std::cout << results[0].sizes() << " sum " << results[0].to(torch::kFloat64).sum().item<double>() << "\n";

  const auto began = std::chrono::steady_clock::now();
  for (int call = 0; call < 100; ++call) {
    results = loader.run({ids});
  }
  results[0].sum().item<double>();  // waits for the GPU
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - began;
  std::cout << took.count() / 100 << " us a call\n";
}
