from tests.projects.rollout.shop.release1 import module

Migration = module("0002_expand", 2)
