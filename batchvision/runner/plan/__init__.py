"""What a run would do and cost, without sending anything."""

from batchvision.runner.plan.bodies import shortened
from batchvision.runner.plan.counting import CountedRequest, RequestReader, standing_of
from batchvision.runner.plan.planning import Plan, plan
from batchvision.runner.plan.refusing import refuse_to_buy_again

__all__ = ["CountedRequest", "Plan", "RequestReader", "plan", "refuse_to_buy_again", "shortened", "standing_of"]
